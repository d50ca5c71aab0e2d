//! Draws an attention map without a model, from four boxes on a picture and a weight for each.
//!
//!     cargo run --release -p vqa-infer --example attention_map -- picture.jpg map.png

use vqa_infer::{AttentionMapStyle, attention_map};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [picture, out] = &arguments[..] else {
        eprintln!("usage: attention_map PICTURE.jpg OUT.png");
        std::process::exit(2);
    };
    let picture = vqa_data::features::read_image(picture.as_ref())?;
    let (w, h) = (picture.width() as f32, picture.height() as f32);
    let boxes = [
        [0.0, 0.0, w / 2.0, h / 2.0],
        [w / 2.0, 0.0, w, h / 2.0],
        [0.0, h / 2.0, w / 2.0, h],
        [w / 4.0, h / 4.0, 3.0 * w / 4.0, 3.0 * h / 4.0],
    ];
    let map = attention_map(&picture, &boxes, &[0.1, 0.2, 0.1, 0.6], &AttentionMapStyle::default());
    map.save(out)?;
    println!("wrote {out}");
    Ok(())
}
