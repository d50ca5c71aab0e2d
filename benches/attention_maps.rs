//! Measures what one picture of a report takes: reading its file, drawing the attention in each style, writing the map
//! as a JPEG.

use criterion::{Criterion, criterion_group, criterion_main};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use vqa_infer::MapStyle;

mod sizes;

use sizes::measured_or_tested;

/// The boxes of a grid and of the full picture, each with a different attention.
fn regions(width: u32, height: u32) -> (Vec<[f32; 4]>, Vec<f32>) {
    let (columns, rows) = (7, 5);
    let (w, h) = (width as f32 / columns as f32, height as f32 / rows as f32);
    let cell = |i: usize| {
        let (x, y) = ((i % columns) as f32 * w, (i / columns) as f32 * h);
        [x, y, x + w, y + h]
    };
    let mut boxes: Vec<[f32; 4]> = (0..columns * rows).map(cell).collect();
    boxes.push([0.0, 0.0, width as f32, height as f32]);
    let attention = (0..boxes.len()).map(|i| (i * 17 % 36 + 1) as f32 / 666.0).collect();
    (boxes, attention)
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).unwrap();
    bytes
}

fn attention_maps(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    for (width, height) in [(640, 480), (measured_or_tested(4000, 400) as u32, measured_or_tested(3000, 300) as u32)] {
        // Waves, which take JPEG about as much work as a photograph.
        let picture = RgbImage::from_fn(width, height, |x, y| {
            let wave = |a: u32, b: u32| (127.0 + 120.0 * ((x * a + y * b) as f64 / 640.0).sin()) as u8;
            Rgb([wave(3, 11), wave(17, 5), wave(29, 31)])
        });
        let file = directory.path().join(format!("{width}.jpg"));
        std::fs::write(&file, jpeg(&picture)).unwrap();
        let (boxes, attention) = regions(width, height);
        let mut group = criterion.benchmark_group(format!("attention_maps/{width}x{height}"));
        group.sample_size(10);
        group.bench_function("read", |bencher| bencher.iter(|| vqa_data::features::read_image(&file).unwrap()));
        for style in MapStyle::ALL {
            group.bench_function(format!("draw {style}"), |bencher| {
                bencher.iter(|| style.draw(&picture, &boxes, &attention));
            });
        }
        let map = MapStyle::Article.draw(&picture, &boxes, &attention);
        group.bench_function("write", |bencher| bencher.iter(|| jpeg(&map)));
        group.finish();
    }
}

criterion_group!(benches, attention_maps);
criterion_main!(benches);
