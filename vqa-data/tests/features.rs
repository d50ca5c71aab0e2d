//! Feature files written by h5py (see `data/make_fixtures.py`), valid and broken.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vqa_data::features::{
    ElementType, ExtractorInfo, FeatureFile, FeatureTable, FeatureWriter, ImageEntry, RegionSource,
};
use vqa_data::files::IfExists;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h5").join(name)
}

/// A pickle beside a feature file says which row is which image, in whatever form and protocol Python wrote it.
#[test]
fn pickles_of_python_and_numpy() {
    let directory = tempfile::tempdir().unwrap();
    let h5 = directory.path().join("f.h5");
    std::fs::copy(fixture("no_ids.h5"), &h5).unwrap();
    let pickles: std::collections::HashMap<String, Vec<String>> =
        serde_json::from_str(include_str!("data/pickles.json")).unwrap();
    let open = |pickle: &[u8]| {
        std::fs::write(directory.path().join("f_imgid2idx.pkl"), pickle).unwrap();
        FeatureFile::open(&h5).map_err(|error| error.to_string())
    };
    for name in ["dict", "ordered", "default", "counter", "numpy", "text_keys", "numpy_text"] {
        for hex in &pickles[name] {
            let bytes: Vec<u8> =
                (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
            let file = open(&bytes).unwrap();
            assert_eq!([10, 20, 30, 40].map(|id| file.row(id)), [Some(0), Some(1), Some(2), None], "{name}");
        }
    }
    for (pickle, words) in [
        (vec![b']'; 4 << 20], "f_imgid2idx.pkl: not a readable pickle: byte 4194304: it ends in the middle"),
        (
            [vec![b']'; 1 << 20], vec![b'a'; (1 << 20) - 1], vec![b'.']].concat(),
            "the pickle is a list of 1, not a dict",
        ),
        (b"}(K\x0aK\0K\x14K\x01u.".to_vec(), "it names 2 images, but the feature file beside it has 3"),
        (b"}(K\x0aK\0K\x14K\x01K\x1eK\x03u.".to_vec(), "row 3 of 3 is given to image 30, but there is no such row"),
        (b"}(K\x0aK\0K\x14K\x01K\x1eK\x01u.".to_vec(), "row 1 of 3 is given to image "),
        (b"}(K\x0aK\0K\x14NK\x1eK\x01u.".to_vec(), "the entry 20: None is not {image id: row}"),
    ] {
        let error = open(&pickle).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

const D: usize = 5;

/// Row `row` holds image 10 (row + 1), with the values that the fixtures' script gives it.
fn assert_row(file: &FeatureFile, row: usize, n_regions: usize, tolerance: f32) {
    assert_eq!(file.row(10 * (row as u64 + 1)), Some(row));
    assert_eq!(file.n_regions(row), n_regions);
    let (mut features, mut boxes) = (vec![0.0; n_regions * D], vec![0.0; n_regions * 4]);
    file.read(row, &mut features, &mut boxes).unwrap();
    for region in 0..n_regions {
        let i = row as f32;
        for column in 0..D {
            let expected = i + region as f32 / 10.0 + column as f32 / 100.0;
            assert!((features[region * D + column] - expected).abs() <= tolerance, "{row} {region} {column}");
        }
        assert_eq!(boxes[region * 4..][..4], [i, region as f32, i + 10.0, region as f32 + 10.0]);
    }
}

#[test]
fn layouts_found_in_the_wild_read_the_same() {
    for (name, mapped, tolerance) in [
        ("f32.h5", true, 1e-6),
        ("f16.h5", true, 2e-3),
        ("f64.h5", false, 1e-6),
        ("big_endian.h5", false, 1e-6),
        ("chunked.h5", false, 1e-6),
        ("gzip.h5", false, 1e-6),
        ("f16_chunked.h5", false, 2e-3),
        ("userblock.h5", true, 1e-6),
        ("float_ids.h5", true, 1e-6),
        ("bf16.h5", false, 8e-3),
        ("external_link.h5", true, 1e-6),
        ("pickle0.hdf5", true, 1e-6),
        ("pickle2.hdf5", true, 1e-6),
        ("pickle4.hdf5", true, 1e-6),
    ] {
        let file = FeatureFile::open(fixture(name)).unwrap();
        assert_eq!(file.layout().contains("memory-mapped"), mapped, "{name}: {}", file.layout());
        assert_eq!((file.n_images(), file.feature_dim()), (3, D), "{name}");
        assert_eq!(file.image_ids(), [10, 20, 30], "{name}");
        assert_eq!(file.row(11), None);
        (0..3).for_each(|row| assert_row(&file, row, 4, tolerance));
    }
}

#[test]
fn adaptive_files_have_regions_of_their_own_number() {
    for name in ["adaptive.h5", "adaptive_gzip.h5"] {
        let file = FeatureFile::open(fixture(name)).unwrap();
        for (row, n_regions) in [2, 4, 1].into_iter().enumerate() {
            assert_row(&file, row, n_regions, 1e-6);
        }
        let summary = file.summarize(&|_| {}).unwrap();
        assert_eq!((summary.min_regions, summary.max_regions, summary.n_images), (1, 4, 3));
    }
}

#[test]
fn zeros_and_speed_are_summed_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.h5");
    let images = (0..100).map(|i| ImageEntry { image_id: i, size: None, n_regions: 1 + i as usize % 3 }).collect();
    let table = FeatureTable { images, feature_dim: 2, element_type: ElementType::F16, ..FeatureTable::default() };
    let writer = FeatureWriter::create(&path, table, IfExists::Refuse).unwrap();
    for i in 0..100 {
        // Image 1 has a region of zeros and another, 2 has three of zeros, 3 has one of zeros.
        let mut features = vec![1.0; 2 * (1 + i % 3)];
        features[..if i == 1 || i == 3 {
            2
        } else if i == 2 {
            6
        } else {
            0
        }]
            .fill(0.0);
        writer.write(i, &features, &vec![0.0; 4 * (1 + i % 3)]).unwrap();
    }
    writer.finish().unwrap();
    let summary = FeatureFile::open(&path).unwrap().summarize(&|_| {}).unwrap();
    assert_eq!((summary.n_zero, summary.n_zero_regions, summary.n_not_finite), (2, 5, 0));
    assert_eq!((summary.dtype.as_str(), summary.mean_regions), ("float16", 1.99));
    let speed = summary.load_speed.unwrap();
    assert!(speed.n_images >= 64 && speed.images_per_s > 0.0);
    // 2 values of 2 bytes for each of about 2 regions.
    assert!((7.0..9.0).contains(&(speed.bytes_per_s / speed.images_per_s)));
}

#[test]
fn an_empty_file_is_a_file_of_no_images() {
    let file = FeatureFile::open(fixture("empty.h5")).unwrap();
    assert_eq!(file.n_images(), 0);
    assert_eq!(file.summarize(&|_| {}).unwrap().n_not_finite, 0);
}

#[test]
fn nan_is_named_when_read_and_counted_in_the_summary() {
    let file = FeatureFile::open(fixture("nan.h5")).unwrap();
    assert_row(&file, 0, 4, 1e-6);
    let error = file.read(2, &mut [0.0; 4 * D], &mut [0.0; 16]).unwrap_err().to_string();
    assert!(error.contains("nan.h5: image 30 (row 2)"), "{error}");
    let summary = file.summarize(&|_| {}).unwrap();
    assert_eq!((summary.n_not_finite, summary.first_not_finite), (2, Some(20)));
    assert!((summary.max - 2.34).abs() < 1e-5 && summary.min == 0.0);
    assert_eq!((summary.dtype.as_str(), summary.n_zero, summary.n_zero_regions), ("float32", 0, 0));
}

#[test]
fn broken_files_are_explained() {
    for (name, words) in [
        ("no_boxes.h5", "no dataset \"image_bb\" in it (it has: image_features, image_ids)"),
        ("other.h5", "no dataset \"image_features\""),
        ("no_ids.h5", "nothing says which row is which image"),
        ("twin_ids.h5", "image 10 has two rows, 0 and 2"),
        ("half_ids.h5", "image_ids has 10.5 (value 0), expected whole numbers from 0 up"),
        ("negative_ids.h5", "image_ids has -10 (value 0)"),
        ("text_ids.h5", "image_ids holds string (len 2), not whole numbers"),
        ("few_ids.h5", "image_ids has 2 entries, but there are 3 images"),
        ("rank1.h5", "has shape [60]"),
        ("rank2_without_pos_boxes.h5", "no \"pos_boxes\""),
        ("adaptive_outside.h5", "pos_boxes row 2 is [7, 8]"),
        ("pos_boxes_fraction.h5", "pos_boxes has 2.7 (value 1)"),
        ("pos_boxes_nan.h5", "pos_boxes has NaN (value 0)"),
        ("pos_boxes_negative.h5", "pos_boxes has -2 (value 1)"),
        ("no_regions.h5", "image_features [3, 0, 5] has no values"),
        ("no_values.h5", "image_features [3, 4, 0] has no values"),
        ("virtual.h5", "\"image_features\" is a virtual dataset, whose values are in other files"),
        ("virtual_missing.h5", "\"image_features\" is a virtual dataset, whose values are in other files"),
        ("external_link_missing.h5", "\"image_features\" cannot be opened: it is damaged, or a link into a file"),
        ("box_mismatch.h5", "does not fit"),
        ("text.h5", "not numbers"),
        ("bad.hdf5", "not a readable pickle"),
        ("never_written.h5", "does not fit in the 0 bytes stored for it"),
        ("never_allocated.h5", "has no values in this file"),
        ("many_ids.h5", "\"image_ids\" [17592186044416] does not fit in the 0 bytes stored for it"),
        ("make_fixtures.py", "no such file"),
        ("../make_fixtures.py", "not an HDF5 file"),
    ] {
        let error = FeatureFile::open(fixture(name)).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn impossible_sizes_are_refused() {
    for (name, words) in [
        ("sizes_negative.h5", "image_sizes has -640 (value 0)"),
        ("sizes_nan.h5", "image_sizes has NaN (value 0)"),
        ("sizes_fraction.h5", "image_sizes has 640.5 (value 0)"),
        ("sizes_huge.h5", "image_sizes row 0 is [703687441776640, 527765581332480]"),
    ] {
        let error = FeatureFile::open(fixture(name)).unwrap().table().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{name}: {error}");
    }
}

/// Wherever a file is cut off, opening it or reading it is an error: no crash, no wrong values.
#[test]
fn truncated_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["f32.h5", "gzip.h5", "adaptive.h5"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let path = directory.path().join(name);
        for length in (0..bytes.len()).step_by(61) {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = FeatureFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

/// Whatever is overwritten in a file, opening and reading it ends with an error or with values.
#[test]
fn damaged_files_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.h5");
    let original = std::fs::read(fixture("f32.h5")).unwrap();
    let mut n_opened = 0;
    for place in (0..original.len() - 8).step_by(13) {
        let mut bytes = original.clone();
        bytes[place..place + 8].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = FeatureFile::open(&path) {
            n_opened += 1;
            for row in 0..file.n_images().min(3) {
                let n = file.n_regions(row).min(1000);
                let _ = file.read(row, &mut vec![0.0; n * file.feature_dim().min(1000)], &mut vec![0.0; n * 4]);
            }
        }
    }
    assert!(n_opened > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_is_read_again(
        n in 0usize..5, k in 1usize..5, d in 1usize..700, half in any::<bool>(), adaptive in any::<bool>(),
        sized in any::<bool>(), seed in any::<u32>()
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.h5");
        // Multiples of an eighth below 128 are exact in both types.
        let value = |i: usize| ((i as u32).wrapping_mul(seed | 1) >> 7 & 1023) as f32 / 8.0 - 64.0;
        // With one image, all images have the same number of regions.
        let entry = |i: usize| {
            let size = sized.then_some([i as u32, 7]);
            // Some images may have no regions, but not all.
            let n_regions = if adaptive { (k + i) % 4 + usize::from(i == 0) } else { k };
            ImageEntry { image_id: 1000 - i as u64, size, n_regions }
        };
        let images: Vec<ImageEntry> = (0..n).map(entry).collect();
        let element_type = if half { ElementType::F16 } else { ElementType::F32 };
        let attributes = [("mean".to_owned(), vec![0.5, f64::NAN])].into();
        let extractor = sized.then(|| ExtractorInfo::parse(r#"{"kind": "test", "mean": [0.1, 1e-7]}"#));
        let table = FeatureTable { images, feature_dim: d, element_type, extractor, attributes };
        let features = |i: usize, k: usize| (0..k * d).map(|j| value(i * k * d + j)).collect::<Vec<f32>>();
        let boxes = |i: usize, k: usize| (0..k * 4).map(|j| value(j + i)).collect::<Vec<f32>>();
        let writer = FeatureWriter::create(&path, table.clone(), IfExists::Refuse).unwrap();
        // Rows may be written in any order.
        for (row, image) in table.images.iter().enumerate().rev() {
            writer.write(row, &features(row, image.n_regions), &boxes(row, image.n_regions)).unwrap();
        }
        prop_assert!(!path.exists(), "no file before the end");
        writer.finish().unwrap();

        let file = FeatureFile::open(&path).unwrap();
        prop_assert_eq!(file.table().unwrap(), table.clone());
        prop_assert!(n == 0 || file.layout().contains("memory-mapped") || file.shape().contains(&0));
        for (row, image) in table.images.iter().enumerate() {
            let k = image.n_regions;
            let (mut read_features, mut read_boxes) = (vec![0.0; k * d], vec![0.0; k * 4]);
            file.read(file.row(image.image_id).unwrap(), &mut read_features, &mut read_boxes).unwrap();
            prop_assert_eq!(read_features, features(row, k));
            prop_assert_eq!(read_boxes, boxes(row, k));
        }
        drop(file);
        prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.h5");
    let images = vec![ImageEntry { image_id: 7, size: None, n_regions: 1 }];
    for (element_type, x, words) in [
        (ElementType::F32, f32::NAN, "feature NaN"),
        (ElementType::F32, f32::INFINITY, "feature inf"),
        (ElementType::F16, -70000.0, "-70000, which cannot be stored as float16: store float32"),
    ] {
        let table = FeatureTable { images: images.clone(), feature_dim: 2, element_type, ..FeatureTable::default() };
        let writer = FeatureWriter::create(&path, table, IfExists::Refuse).unwrap();
        let error = writer.write(0, &[0.0, x], &[0.0; 4]).unwrap_err().to_string();
        assert!(error.contains("f.h5: image 7") && error.contains(words), "{error}");
    }
    for (feature_dim, n_regions) in [(0, 1), (2, 0)] {
        let images = vec![ImageEntry { image_id: 7, size: None, n_regions }];
        let table = FeatureTable { images, feature_dim, ..FeatureTable::default() };
        let error = FeatureWriter::create(&path, table, IfExists::Refuse).unwrap_err().to_string();
        assert!(error.contains("f.h5: its features would have no values"), "{error}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
