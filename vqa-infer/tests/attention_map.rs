//! The attention map against the seed's own code, run with NumPy and OpenCV.

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
        let drawn = attention_map(&picture, &case.boxes, &case.attention, &AttentionMapStyle::default());
        let expected = image::load_from_memory(expected).unwrap().into_rgb8();
        let most = (0..case.attention.len()).max_by(|&a, &b| case.attention[a].total_cmp(&case.attention[b])).unwrap();
        let [x1, y1, x2, y2] = case.boxes[most].map(|corner| corner as i64);
        let mut n_compared = 0;
        for (x, y, pixel) in drawn.enumerate_pixels() {
            let (x, y) = (i64::from(x), i64::from(y));
            // OpenCV draws a frame of "thickness 5" seven pixels wide with round corners; ours is five wide.
            let outside = x < x1 - 3 || x > x2 + 3 || y < y1 - 3 || y > y2 + 3;
            let inside = x > x1 + 3 && x < x2 - 3 && y > y1 + 3 && y < y2 - 3;
            if outside || inside {
                n_compared += 1;
                let theirs = expected.get_pixel(x as u32, y as u32);
                let off = (0..3).map(|c| pixel.0[c].abs_diff(theirs.0[c])).max().unwrap();
                assert!(off <= 1, "pixel {x} {y}: {pixel:?}, the seed's {theirs:?}");
            }
        }
        assert!(n_compared * 2 > w * h);
        assert_eq!(drawn.get_pixel(x1 as u32, y1 as u32), expected.get_pixel(x1 as u32, y1 as u32));
    }
}
