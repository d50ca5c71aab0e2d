//! Features from a network: `vqa features extract --backbone`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use vqa_data::features::{ExtractorInfo, FeatureFile, RegionSource};

use crate::common::{fails, ok, stderr, vqa};

/// A directory with the networks from `data/make_fixtures.py`, and five pictures of two sizes.
fn pictures() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["cells.pt", "boxes.pt", "operator.pt"] {
        fs::copy(fixtures.join(name), at.join(name)).unwrap();
    }
    let preprocessing = "size = [16, 24]\nmean = [0.5, 0.25, 0.5]\ndeviation = [0.25, 0.5, 0.25]\n";
    fs::write(at.join("cells.toml"), preprocessing).unwrap();
    fs::write(at.join("boxes.toml"), "short_side = 16\nmean = [0, 0, 0]\ndeviation = [1, 1, 1]\n").unwrap();
    fs::create_dir(at.join("in")).unwrap();
    for index in 1..=5 {
        let [width, height] = if index % 2 == 1 { [24, 16] } else { [48, 32] };
        fs::write(
            at.join(format!("in/{index}.bmp")),
            bmp(width, height, |x, y, c| x * (29 + index) + y * 53 + c * 101),
        )
        .unwrap();
    }
    directory
}

/// An uncompressed picture. Widths are multiples of 4, so that rows need no padding.
fn bmp(width: u32, height: u32, value: impl Fn(u32, u32, u32) -> u32) -> Vec<u8> {
    let n_bytes = width * height * 3;
    let header = [54 + n_bytes, 0, 54, 40, width, height, 1 | 24 << 16, 0, n_bytes, 0, 0, 0, 0];
    let mut bytes = b"BM".to_vec();
    bytes.extend(header.iter().flat_map(|field| field.to_le_bytes()));
    // From the last row to the first, blue before red.
    for y in (0..height).rev() {
        for x in 0..width {
            bytes.extend([2, 1, 0].map(|channel| value(x, y, channel) as u8));
        }
    }
    bytes
}

fn read(path: &Path, row: usize) -> (Vec<f32>, Vec<f32>) {
    let file = FeatureFile::open(path).unwrap();
    let k = file.n_regions(row);
    let (mut features, mut boxes) = (vec![0.0; k * file.feature_dim()], vec![0.0; k * 4]);
    file.read(row, &mut features, &mut boxes).unwrap();
    (features, boxes)
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{found} {expected}");
    }
}

#[test]
fn features_are_those_of_a_loop_in_python() {
    let directory = pictures();
    let at = directory.path();
    let extract = "features extract --images in --backbone cells.pt --grid 2x3 --whole";
    let said = ok(at, &format!("{extract} --out whole.h5"));
    assert!(said.starts_with("wrote 5 images x 7 regions x 4 values to whole.h5\n"), "{said}");
    assert!(said.contains("5 images in ") && said.contains("the network waited for pictures "), "{said}");
    // From make_fixtures.py.
    let (features, boxes) = read(&at.join("whole.h5"), 0);
    let expected = [
        0.12121, 0.55094, 0.0267, 0.55716, 0.47473, 0.26559, 0.0029, 0.953, 0.42614, 0.29952, 0.60652, 0.61204,
        0.28272, 0.9253, 0.17834, 0.66073, 0.47023, 0.65703, 0.26058, 1.03356, 0.12121, 0.46969, 0.35126, 0.52799,
        0.31604, 0.52801, 0.23772, 0.72408,
    ];
    assert_close(&features, &expected, 1e-4);
    assert_eq!(boxes[4..8], [8.0, 0.0, 16.0, 8.0]);
    assert_eq!(boxes[24..], [0.0, 0.0, 24.0, 16.0]);
    // This one is resized, where a pixel may be off by one: 1 / 255 / 0.25 in a feature, and less in a mean.
    let (features, boxes) = read(&at.join("whole.h5"), 1);
    let expected = [
        0.42905, 0.59952, 0.08147, 0.97899, 0.73372, 0.44094, 0.0, 1.3585, 0.48987, 0.20655, 0.2169, 0.88018, 0.16455,
        0.70012, 0.14413, 0.49058, 0.25035, 0.90745, 0.0, 0.77771, 0.50273, 0.41568, 0.04221, 0.83253, 0.42838,
        0.54504, 0.08078, 0.88642,
    ];
    assert_close(&features, &expected, 5e-3);
    assert_eq!(boxes[24..], [0.0, 0.0, 48.0, 32.0]);

    let file = FeatureFile::open(at.join("whole.h5")).unwrap();
    assert_eq!(file.image_sizes().unwrap().unwrap()[..2], [[24, 16], [48, 32]]);
    let info = file.extractor().unwrap().to_string();
    for words in [
        r#""kind":"backbone""#,
        r#""backbone":"cells.pt""#,
        r#""size":[16,24]"#,
        r#""grid":[2,3]"#,
        r#""whole":true"#,
        r#""mean":[0.5,0.25,0.5]"#,
        r#""filter":"bilinear""#,
    ] {
        assert!(info.contains(words), "{words} {info}");
    }

    // The features are the same however the job is split into shards, and from a list in another directory.
    for shard in ["1/2", "2/2"] {
        ok(at, &format!("{extract} --out part.h5 --shard {shard}"));
    }
    ok(at, "features convert part.shard-1-of-2.h5 part.shard-2-of-2.h5 --out merged.h5");
    fs::create_dir(at.join("lists")).unwrap();
    let listed =
        r#"{"1": "../in/1.bmp", "2": "../in/2.bmp", "3": "../in/3.bmp", "4": "../in/4.bmp", "5": "../in/5.bmp"}"#;
    fs::write(at.join("lists/images.json"), listed).unwrap();
    ok(
        at,
        "features extract --images lists/images.json --out like.h5 --like whole.h5 --weights cells.pt --precision fp32 \
         --batch-size 2",
    );
    for name in ["merged.h5", "like.h5"] {
        assert_eq!(FeatureFile::open(at.join(name)).unwrap().extractor(), file.extractor());
        for row in 0..5 {
            let [(found, boxes), (expected, expected_boxes)] = [name, "whole.h5"].map(|name| read(&at.join(name), row));
            assert_close(&found, &expected, 1e-5);
            assert_eq!(boxes, expected_boxes);
        }
    }

    let report =
        ok(at, "features extract --images in --backbone cells.pt --grid 1x1 --size 8x8 --f16 --out x.h5 --json");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["shape"], serde_json::json!([5, 1, 4]));
    assert_eq!(report["extractor"]["size"], serde_json::json!([8, 8]));
}

#[test]
fn a_detectors_boxes_become_adaptive_features() {
    let directory = pictures();
    let at = directory.path();
    // The right half's score is its mean red value, about a half except in this picture; the score of the full picture
    // is low.
    fs::write(at.join("in/6.bmp"), bmp(24, 16, |_, _, _| 10)).unwrap();
    let extract = "features extract --images in --backbone boxes.pt --out x.h5 --force";
    let said = ok(at, &format!("{extract} --boxes 1-3 --min-score 0.2"));
    assert!(said.starts_with("wrote 6 images, features [11, 2], to x.h5\n"), "{said}");
    let (features, boxes) = read(&at.join("x.h5"), 1);
    assert_eq!((features[0], features[2]), (1.0, 2.0));
    assert_eq!(boxes, [0.0, 0.0, 24.0, 32.0, 24.0, 0.0, 48.0, 32.0]);
    assert!(!at.join("x.h5.regions.partial").exists());
    let said = ok(at, &format!("{extract} --boxes 1"));
    assert!(said.starts_with("wrote 6 images x 1 regions x 2 values"), "{said}");
    fails(at, "features extract --images in --backbone boxes.pt --out y.h5 --grid 2x2", &["a detector", "--boxes"]);
}

#[test]
fn what_is_no_network_and_what_a_network_cannot_do_is_explained() {
    let directory = pictures();
    let at = directory.path();
    let extract = |options: &str| format!("features extract --images in --out x.h5 {options}");
    ok(at, "features extract --images in --out grid.h5 --grid 2x2 --patch 2");
    ok(at, "features extract --images in --out cells.h5 --backbone cells.pt");
    fs::write(at.join("none.pt"), "no network").unwrap();
    for (options, words) in [
        ("--backbone resnet", vec!["resnet", "mobilenet-v2, efficientnet-lite0"]),
        ("--backbone nowhere/model.pt", vec!["nowhere/model.pt", "no such file"]),
        ("--backbone none.pt", vec!["none.pt"]),
        ("--backbone operator.pt", vec!["operator.pt: it needs the operator elsewhere::nothing", "LD_PRELOAD"]),
        ("--backbone cells.pt --patch 4", vec!["--backbone", "cannot be used with", "--patch"]),
        ("--backbone cells.pt --size 0x4", vec!["expected HEIGHTxWIDTH"]),
        ("--backbone cells.pt --boxes 36", vec!["--boxes and --min-score are for detectors", "cells.pt"]),
        ("--backbone cells.pt --like grid.h5", vec!["ask for different features"]),
        ("--backbone cells.pt --like cells.h5 --size 8x8", vec!["different features (size)"]),
        ("--like cells.h5 --grid 2x2", vec!["pass it alone"]),
        ("--grid 2x2 --weights boxes.pt", vec!["--weights is for networks", "leave it out"]),
        ("--like grid.h5 --weights boxes.pt", vec!["--weights is for networks", "leave it out"]),
        ("--like cells.h5 --weights boxes.pt", vec!["boxes.pt", "SHA-256"]),
        ("--backbone boxes.pt --min-score nan", vec!["--min-score", "expected a number"]),
        ("--backbone boxes.pt --min-score inf", vec!["--min-score", "expected a number"]),
        ("--like cells.h5 --precision bf16", vec!["--like and --precision"]),
        ("--grid 2x2 --device cpu", vec!["--device is for networks", "--backbone"]),
        ("--like grid.h5 --precision bf16", vec!["--precision is for networks"]),
        ("--like grid.h5 --batch-size 4", vec!["--batch-size is for networks"]),
        ("--backbone cells.pt --mean 0.5", vec!["expected three numbers"]),
        ("--backbone cells.pt --deviation 1,1,0", vec!["deviation = 0"]),
        ("--backbone cells.pt --device gpu", vec!["gpu", "cuda"]),
    ] {
        fails(at, &extract(options), &words);
    }
    fs::rename(at.join("cells.pt"), at.join("moved.pt")).unwrap();
    fails(at, &extract("--like cells.h5"), &["cells.pt (SHA-256 ", "--weights"]);
    fs::rename(at.join("moved.pt"), at.join("cells.pt")).unwrap();

    // Pixels that become infinite.
    fs::write(at.join("cells.toml"), "size = [16, 24]\ndeviation = [1e-300, 1e-300, 1e-300]\n").unwrap();
    fails(at, &extract("--backbone cells.pt"), &["in/1.bmp: ", "NaN or infinite"]);
    fs::write(at.join("cells.toml"), "size = [16, 24]\n").unwrap();

    // A picture of one pixel can be resized, but one that claims 50,000 x 50,000 pixels is refused before decoding.
    fs::create_dir(at.join("odd")).unwrap();
    let mut claim = bmp(4, 1, |_, _, _| 9);
    fs::write(at.join("odd/1.bmp"), &claim).unwrap();
    claim[18..22].copy_from_slice(&50_000i32.to_le_bytes());
    claim[22..26].copy_from_slice(&50_000i32.to_le_bytes());
    fs::write(at.join("odd/2.bmp"), &claim).unwrap();
    let odd = "features extract --images odd --out odd.h5 --backbone cells.pt";
    fails(at, odd, &["odd/2.bmp: a picture of 50000 x 50000 pixels", "--skip-bad"]);
    let output = vqa(at, &format!("{odd} --skip-bad")).output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("skipped: odd/2.bmp"), "{}", stderr(&output));
    let info = FeatureFile::open(at.join("odd.h5")).unwrap().extractor().cloned();
    assert_eq!(info.as_ref().and_then(ExtractorInfo::kind), Some("backbone"));
}
