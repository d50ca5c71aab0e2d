//! Compares the attention map with that of the seed's own code, run with NumPy and OpenCV.

use image::{Rgb, RgbImage};
use serde::Deserialize;
use vqa_infer::{AttentionMapStyle, attention_map};

#[derive(Deserialize)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    width: u32,
    height: u32,
    boxes: Vec<[f32; 4]>,
    attention: Vec<f32>,
}

#[test]
fn agrees_with_the_seed() {
    let table: Table = serde_json::from_str(include_str!("data/attention_maps.json")).unwrap();
    let expected: [&[u8]; 3] =
        [include_bytes!("data/map_0.png"), include_bytes!("data/map_1.png"), include_bytes!("data/map_2.png")];
    assert_eq!(table.cases.len(), expected.len());
    for (case, expected) in table.cases.iter().zip(expected) {
        let (w, h) = (case.width, case.height);
        let picture = RgbImage::from_fn(w, h, |x, y| {
            let part = |i: u32, n: u32| (f64::from(i) * 255.0 / f64::from(n)) as u8;
            Rgb([part(x, w), part(y, h), ((x * 3 + y * 5) % 256) as u8])
        });
        // As wide as the seed's frame, whatever the size of the picture.
        let style = AttentionMapStyle { frame_width: Some(7), ..AttentionMapStyle::default() };
        let drawn = attention_map(&picture, &case.boxes, &case.attention, &style);
        let expected = image::load_from_memory(expected).unwrap().into_rgb8();
        let n_framed = expected.pixels().filter(|pixel| pixel.0 == style.frame.0).count();
        assert!(n_framed > 100, "{n_framed}");
        for (x, y, pixel) in drawn.enumerate_pixels() {
            let theirs = expected.get_pixel(x, y);
            let off = (0..3).map(|c| pixel.0[c].abs_diff(theirs.0[c])).max().unwrap();
            assert!(off <= 1, "pixel {x} {y}: {pixel:?}, the seed's {theirs:?}");
        }
    }
}
