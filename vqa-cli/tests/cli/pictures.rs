//! Tests with folders of pictures as users have them.

use std::fs;
use std::path::Path;

use crate::common::{fails, ok, stderr, vqa, world};

/// A folder with two good pictures, two broken ones, and the files that a Mac leaves beside them.
fn with_broken_pictures(at: &Path) {
    let picture = fs::read(at.join("data/images/val/shapes_val_000000000051.jpg")).unwrap();
    fs::create_dir_all(at.join("in/more")).unwrap();
    for name in ["9.jpg", "more/COCO_train2014_000000000025.jpg"] {
        fs::write(at.join("in").join(name), &picture).unwrap();
    }
    fs::write(at.join("in/100.jpg"), b"ok").unwrap();
    fs::write(at.join("in/101.jpg"), &picture[..picture.len() * 3 / 5]).unwrap();
    fs::write(at.join("in/._9.jpg"), b"\0\x05\x16\x07").unwrap();
    fs::write(at.join("in/notes.txt"), b"mine").unwrap();
}

#[test]
fn broken_pictures_are_all_named_or_left_out() {
    let world = world();
    let at = world.path();
    with_broken_pictures(at);
    let named = ["100.jpg: not a readable picture", "2 pictures cannot be used", "in/101.jpg", "--skip-bad"];
    fails(at, "features extract --images in --out x.h5 --grid 2x2", &named);
    fails(at, "features extract --images in --out x.h5 --like val.h5", &named);
    for options in ["--grid 2x2", "--like val.h5"] {
        let output = vqa(at, &format!("features extract --images in --out x.h5 --force {options} --skip-bad --json"))
            .output()
            .unwrap();
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("skipped: in/101.jpg: not a readable picture (it is cut short)"), "{said}");
        assert!(said.contains("skipped: 2 images in all"), "{said}");
        assert!(said.contains("skipped: 2 other files: 1 .txt (in/notes.txt), 1 hidden (in/._9.jpg)"), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["n_images"], report["left_out"].as_array().unwrap().len()), (&2.into(), 2), "{report}");
        assert_eq!(report["other_files"], serde_json::json!({".txt": 1, "hidden": 1}));
        assert!(ok(at, "features inspect x.h5").contains("2, ids 9 to 25"));
    }
}

#[test]
fn names_without_ids_are_explained() {
    let world = world();
    let at = world.path();
    fs::create_dir(at.join("in")).unwrap();
    let picture = at.join("data/images/val/shapes_val_000000000051.jpg");
    fs::copy(&picture, at.join("in/003a8ae2ef43b901.jpg")).unwrap();
    fs::copy(&picture, at.join("in/7.jpg")).unwrap();
    let words = ["in/003a8ae2ef43b901.jpg: the name does not end in an image id", "--skip-bad"];
    fails(at, "features extract --images in --out x.h5 --grid 2x2", &words);
    fails(at, "features extract --images in --out x.h5 --like val.h5", &words);
    ok(at, "features extract --images in --out x.h5 --grid 2x2 --skip-bad");
    assert!(ok(at, "features inspect x.h5").contains("1, ids 7 to 7"));
}

#[cfg(not(feature = "torch"))]
#[test]
fn a_network_needs_a_build_with_libtorch() {
    let world = world();
    let at = world.path();
    let extract = "features extract --images data/images/val --out x.h5 --backbone mobilenet-v2";
    fails(at, extract, &["built without libtorch", "--grid"]);
    assert!(!ok(at, "features extract --help").contains("--backbone"));
}
