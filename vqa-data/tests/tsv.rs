//! TSV files as bottom-up-attention and LXMERT write them (see `data/make_fixtures.py`), sound and broken.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use vqa_data::{ElementType, FeatureFile, RegionSource, TsvFiles};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h5").join(name)
}

fn open(names: &[&str]) -> TsvFiles {
    let paths: Vec<PathBuf> = names.iter().map(|name| fixture(name)).collect();
    TsvFiles::open(&paths, &|_| {}).unwrap()
}

/// The features and boxes of every image of a file.
fn content(file: &FeatureFile) -> Vec<(u64, Vec<f32>, Vec<f32>)> {
    let images = file.image_ids().iter().enumerate();
    images
        .map(|(row, &id)| {
            let n = file.n_regions(row);
            let (mut features, mut boxes) = (vec![0.0; n * file.feature_dim()], vec![0.0; n * 4]);
            file.read(row, &mut features, &mut boxes).unwrap();
            (id, features, boxes)
        })
        .collect()
}

/// What is converted is what h5py wrote of the same numbers.
#[test]
fn converted_files_are_as_from_h5py() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.h5");
    for (tsv, h5) in [("fixed.tsv", "f32.h5"), ("lxmert.tsv", "f32.h5"), ("adaptive.tsv", "adaptive.h5")] {
        open(&[tsv]).write(&out, ElementType::F32, &|_| {}).unwrap();
        let (ours, theirs) = (FeatureFile::open(&out).unwrap(), FeatureFile::open(fixture(h5)).unwrap());
        assert_eq!(ours.shape(), theirs.shape(), "{tsv}");
        assert_eq!(content(&ours), content(&theirs), "{tsv}");
        assert_eq!(ours.image_sizes().unwrap().unwrap(), [[640, 480]; 3]);
        assert!(ours.layout().contains("memory-mapped"));
    }
    open(&["fixed.tsv"]).write(&out, ElementType::F16, &|_| {}).unwrap();
    let halves = FeatureFile::open(fixture("f16.h5")).unwrap();
    assert_eq!(content(&FeatureFile::open(&out).unwrap()), content(&halves));
}

#[test]
fn some_images_can_be_kept() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.h5");
    let mut tsv = open(&["adaptive.tsv"]);
    tsv.keep(&HashSet::from([30, 10])).unwrap();
    tsv.write(&out, ElementType::F32, &|_| {}).unwrap();
    assert_eq!(FeatureFile::open(&out).unwrap().image_ids(), [10, 30]);
    let error = tsv.keep(&HashSet::from([10, 11, 12])).unwrap_err().to_string();
    assert!(error.contains("2 of the 3 wanted images are not in it (image ids 11, 12)"), "{error}");
}

#[test]
fn bad_lines_are_numbered() {
    let tsv = open(&["bad.tsv"]);
    let found: Vec<(usize, &str)> = tsv.bad_rows().iter().map(|bad| (bad.line, bad.problem.as_str())).collect();
    let expected = [
        (2, "2 columns"),
        (3, "image 10 again, after line 1"),
        (4, "features has"),
        (6, "the image id is \"x\""),
        (8, "boxes has 64 bytes, and 5 boxes have 80"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, problem), (expected_line, words)) in found.iter().zip(expected) {
        assert!(*line == expected_line && problem.contains(words), "{line} {problem}");
    }
    assert_eq!(tsv.n_images(), 4);
    // Base64 is looked into when it is decoded.
    let directory = tempfile::tempdir().unwrap();
    let error = tsv.write(&directory.path().join("out.h5"), ElementType::F32, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("bad.tsv: line 10: features is no base64"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    let twice = open(&["fixed.tsv", "lxmert.tsv"]);
    assert_eq!((twice.n_images(), twice.bad_rows().len()), (3, 3));
    let error = TsvFiles::open(&[fixture("make_fixtures.py")], &|_| {}).err().unwrap().to_string();
    assert!(error.contains("no such file"), "{error}");
    let error = TsvFiles::open(&[fixture("f32.h5")], &|_| {}).err().unwrap().to_string();
    assert!(error.contains("no line of bottom-up-attention's form"), "{error}");
}

/// However a file is cut off or damaged: lines are set aside or decoding fails, and nothing else happens.
#[test]
fn damaged_files_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("a.tsv"), directory.path().join("out.h5"));
    let original = std::fs::read(fixture("lxmert.tsv")).unwrap();
    let mut n_written = 0;
    for place in (1..original.len()).step_by(23) {
        let mut changed = original.clone();
        changed[place] = b"\t\n=A9\xff"[place % 6];
        for bytes in [&changed[..], &original[..place]] {
            std::fs::write(&path, bytes).unwrap();
            if let Ok(tsv) = TsvFiles::open(std::slice::from_ref(&path), &|_| {}) {
                n_written += usize::from(tsv.write(&out, ElementType::F32, &|_| {}).is_ok());
            }
        }
    }
    assert!(n_written > 0);
}
