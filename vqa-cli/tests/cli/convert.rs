//! Converting feature files from other formats, in shards, and resuming after a kill.

use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::{
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use crate::common::{fails, ok, stderr, vqa, world};
#[cfg(target_os = "linux")]
use crate::process::{freeze, signal, start, wait_for};

/// Copies fixtures that h5py and NumPy wrote for the tests of `vqa-data`.
fn fixtures(at: &Path, names: &[&str]) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vqa-data/tests/data/h5");
    for name in names {
        if from.join(name).is_dir() {
            fs::create_dir(at.join(name)).unwrap();
            for entry in fs::read_dir(from.join(name)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), at.join(name).join(entry.file_name())).unwrap();
            }
        } else {
            fs::copy(from.join(name), at.join(name)).unwrap();
        }
    }
}

fn same(at: &Path, a: &str, b: &str) -> bool {
    fs::read(at.join(a)).unwrap() == fs::read(at.join(b)).unwrap()
}

#[test]
fn every_form_converts_and_shards_merge() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fixtures(at, &["fixed.tsv", "npz", "f16.h5", "gzip.h5", "adaptive.tsv"]);
    let printed = ok(at, "features convert fixed.tsv --out tsv.h5");
    assert!(printed.contains("wrote 3 images, features [3, 4, 5], to tsv.h5"), "{printed}");
    ok(at, "features convert npz --out npz.h5");
    assert!(same(at, "tsv.h5", "npz.h5"));
    ok(at, "features convert f16.h5 --out half.h5");
    assert!(ok(at, "features inspect half.h5").contains("float16, contiguous"));
    ok(at, "features convert half.h5 --f32 --out full.h5");
    assert!(ok(at, "features inspect full.h5").contains("float32, contiguous"));
    // The warning appears once for a file, though the file is opened for each shard.
    let output = vqa(at, "features convert gzip.h5 --out plain.h5").output().unwrap();
    assert_eq!(stderr(&output).matches("is slower than a contiguous").count(), 1, "{}", stderr(&output));

    ok(at, "features convert adaptive.tsv --out whole.h5");
    for shard in ["1/2", "2/2"] {
        ok(at, &format!("features convert adaptive.tsv --out merged.h5 --shard {shard}"));
    }
    fails(at, "features convert merged.shard-1-of-2.h5 --out merged.h5", &["one of 2 shards, of which 2 is missing"]);
    ok(at, "features convert merged.shard-2-of-2.h5 merged.shard-1-of-2.h5 --out merged.h5");
    assert!(same(at, "whole.h5", "merged.h5"));

    fs::write(at.join("a.txt"), "30\n10\n").unwrap();
    fs::write(at.join("b.txt"), "20\n").unwrap();
    ok(at, "features convert adaptive.tsv --split a.txt=a.h5 --split b.txt=b.h5");
    ok(at, "features convert whole.h5 --ids a.txt --out again.h5");
    assert!(same(at, "a.h5", "again.h5"));
    assert!(ok(at, "features inspect b.h5").contains("ids 20 to 20"));

    // Each list has shards of its own.
    for shard in ["1/2", "2/2"] {
        ok(at, &format!("features convert adaptive.tsv --split a.txt=a2.h5 --split b.txt=b2.h5 --shard {shard}"));
    }
    for name in ["a", "b"] {
        ok(at, &format!("features convert {name}2.shard-1-of-2.h5 {name}2.shard-2-of-2.h5 --out {name}2.h5"));
        assert!(same(at, &format!("{name}.h5"), &format!("{name}2.h5")), "{name}");
    }
    assert!(ok(at, "features inspect b2.shard-1-of-2.h5").contains("values         none are finite"));
}

/// Shards of pictures merge to the full set, though each machine knows only the folder and nothing of the others.
#[test]
fn extracted_shards_merge() {
    let world = world();
    let at = world.path();
    for options in ["--grid 4x5 --whole --patch 4", "--like val.h5 --f16"] {
        let extract = format!("features extract --images data/images/train {options} --force");
        ok(at, &format!("{extract} --out whole.h5"));
        for index in 1..=3 {
            ok(at, &format!("{extract} --out merged.h5 --shard {index}/3"));
        }
        ok(
            at,
            "features convert merged.shard-2-of-3.h5 merged.shard-3-of-3.h5 merged.shard-1-of-3.h5 --out merged.h5 --force",
        );
        assert!(same(at, "whole.h5", "merged.h5"), "{options}");
    }
}

/// No existing file is replaced unless that was asked for.
#[test]
fn what_is_there_stays() {
    let world = world();
    let at = world.path();
    fixtures(at, &["fixed.tsv"]);
    fs::copy(at.join("fixed.tsv"), at.join("x.partial")).unwrap();
    fails(at, "features convert x.partial --out x", &["x: ", "x.partial is also an input"]);
    assert!(same(at, "fixed.tsv", "x.partial"));
    fs::write(at.join("y.partial"), "thesis").unwrap();
    fails(at, "features convert fixed.tsv --out y", &["y.partial: is in the way"]);
    assert_eq!(fs::read(at.join("y.partial")).unwrap(), b"thesis");

    fs::write(at.join("z"), "thesis").unwrap();
    fails(at, "features convert fixed.tsv --out z", &["z: already exists", "--force"]);
    // What cannot be written is noticed before the inputs are read.
    for (out, problem) in [
        ("x.h5.partial", "x.h5.partial: only unfinished files have names"),
        ("z/x.h5", "z: there is a file where a directory is needed"),
        ("~/x.h5", "only a shell expands"),
    ] {
        fails(at, &format!("features convert nowhere.tsv --out {out}"), &[problem]);
        fails(at, &format!("features extract --images nowhere --grid 2x2 --out {out}"), &[problem]);
    }
    assert!(!at.join("~").exists());
    let extract = "features extract --images data/images/val --grid 2x2 --out z";
    fails(at, extract, &["z: already exists", "--force"]);
    assert_eq!(fs::read(at.join("z")).unwrap(), b"thesis");
    ok(at, "features convert fixed.tsv --out z --force");
    assert!(ok(at, "features inspect z").contains("[3, 4, 5]"));
    ok(at, &format!("{extract} --force"));
    assert!(ok(at, "features inspect z").contains("[10, 4, 768]"));
}

#[test]
fn scripts_read_json() {
    let world = world();
    let at = world.path();
    fixtures(at, &["bad.tsv"]);
    let json = |arguments: &str| -> serde_json::Value { serde_json::from_str(&ok(at, arguments)).unwrap() };
    let report = json("features convert bad.tsv --out x.h5 --skip-bad --json");
    let written = serde_json::json!({"path": "x.h5", "n_images": 3, "shape": [3, 4, 5], "dtype": "float32"});
    assert_eq!(report["written"], serde_json::json!([written]));
    let left_out = report["left_out"].as_array().unwrap();
    assert_eq!((left_out.len(), &left_out[0]["path"], &left_out[0]["line"]), (6, &"bad.tsv".into(), &2.into()));
    assert!(left_out[0]["problem"].as_str().unwrap().starts_with("2 columns"), "{report}");
    assert_eq!(report["missing"], serde_json::json!([]));
    let report = json("features extract --images data/images/val --out y.h5 --grid 2x2 --json");
    assert_eq!(report["shape"], serde_json::json!([10, 4, 768]));
    assert_eq!((report["mean"].as_array().unwrap().len(), report["path"].as_str().unwrap()), (3, "y.h5"));
}

#[test]
fn wrong_input_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fixtures(at, &["bad.tsv", "fixed.tsv", "f32.h5", "bad_npz", "adaptive.h5"]);
    fs::write(at.join("ids.txt"), "10\n11\n12\n").unwrap();
    fs::write(at.join("words.txt"), "10\nten\n").unwrap();
    fs::write(at.join("ten.txt"), "10\n").unwrap();
    fs::write(at.join("empty.txt"), "\n").unwrap();
    fs::copy(at.join("f32.h5"), at.join("other.h5.partial")).unwrap();
    let mut damaged = fs::read(at.join("fixed.tsv")).unwrap();
    let place = damaged.len() / 3 * 2 - 20;
    damaged[place] = b'!';
    fs::write(at.join("damaged.tsv"), damaged).unwrap();
    for (arguments, words) in [
        ("bad.tsv --out x.h5", &["bad.tsv: line 2: 2 columns", "5 images cannot be used", "--skip-bad"][..]),
        ("bad_npz --out x.h5", &["bad_npz/2.npz: bbox is missing", "--skip-bad"]),
        ("damaged.tsv --out x.h5", &["damaged.tsv: line 2: features is not base64", "skip bad images with --skip-bad"]),
        ("fixed.tsv fixed.tsv --out x.h5", &["line 1: image 10 again, first on line 1"]),
        ("fixed.tsv --ids ids.txt --out x.h5", &["x.h5: 2 of the 3 images", "(image ids 11, 12)"]),
        ("fixed.tsv --ids words.txt --out x.h5", &["words.txt: line 2: \"ten\""]),
        ("fixed.tsv f32.h5 --out x.h5", &["fixed.tsv: not an HDF5 file, unlike other inputs"]),
        (
            "fixed.tsv --out ./fixed.tsv --force",
            &["./fixed.tsv: ./fixed.tsv is also an input or another output: choose another file"],
        ),
        (
            "fixed.tsv --split ten.txt=x.h5 --split ten.txt=./x.h5",
            &["./x.h5: ./x.h5 is also an input or another output"],
        ),
        ("fixed.tsv --ids empty.txt --out x.h5", &["empty.txt: no image ids in it"]),
        ("bad_npz/1.npz --out x.h5", &["1.npz: an archive: give the folder for .npz files"]),
        ("other.h5.partial --out x.h5", &["other.h5.partial: unfinished", "the command that writes other.h5"]),
        ("nowhere.tsv --out x.h5", &["nowhere.tsv", "no such file"]),
        ("fixed.tsv --out x.h5 --shard 3/2", &["I from 1 to N"]),
        ("fixed.tsv --split ids.txt", &["expected IDS.txt=OUT.h5"]),
        ("fixed.tsv", &["required arguments were not provided"]),
        ("fixed.tsv --out .", &["so it is not replaced"]),
    ] {
        fails(at, &format!("features convert {arguments}"), words);
    }
    let output = vqa(at, "features convert bad.tsv --out x.h5 --skip-bad").output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("skipped: bad.tsv: line 10: features is not base64"), "{said}");
    assert!(said.trim_end().ends_with("skipped: 6 images in all"), "{said}");
    assert!(ok(at, "features inspect x.h5").contains("3, ids 10 to 30"));
    // Image 40 is listed, but malformed.
    fs::write(at.join("listed.txt"), "30\n40\n").unwrap();
    fs::write(at.join("others.txt"), "41\n42\n").unwrap();
    let output = vqa(at, "features convert bad.tsv --ids listed.txt --out y.h5 --skip-bad").output().unwrap();
    assert!(stderr(&output).contains("skipped: image 40, listed for y.h5, is not in the input"));
    assert!(ok(at, "features inspect y.h5").contains("1, ids 30 to 30"));
    let output = vqa(at, "features convert bad.tsv --ids others.txt --out z.h5 --skip-bad").output().unwrap();
    assert!(stderr(&output).contains("2 of the 2 images listed for it are not in the input"), "{}", stderr(&output));
}

/// A folder of many pictures: the same few under many names.
#[cfg(target_os = "linux")]
fn many_pictures(at: &Path, n: usize) -> PathBuf {
    let few: Vec<PathBuf> =
        fs::read_dir(at.join("data/images/train")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let folder = at.join("many");
    fs::create_dir(&folder).unwrap();
    for i in 0..n {
        fs::hard_link(&few[i % few.len()], folder.join(format!("{i:08}.jpg"))).unwrap();
    }
    folder
}

/// A run that writes x.h5, frozen after it has recorded some progress and before its end.
#[cfg(target_os = "linux")]
fn frozen_with_progress(at: &Path, arguments: &str) -> Child {
    for _ in 0..100 {
        let mut child = start(at, arguments);
        wait_for("an unfinished file", || {
            fs::metadata(at.join("x.h5.partial")).is_ok_and(|file| file.len() > 0)
                || child.try_wait().unwrap().is_some()
        });
        // The slices grow: at first they are far too short for a slow machine, but they never span most of the run.
        let mut slice = Duration::from_millis(10);
        while freeze(&mut child) {
            let journal = fs::read(at.join("x.h5.partial.json")).unwrap_or_default();
            let journal: serde_json::Value = serde_json::from_slice(&journal).unwrap_or_default();
            if journal["n_done"].as_u64().is_some_and(|n_done| n_done > 0) {
                return child;
            }
            // It records its progress once a second, so let a second pass before it continues.
            std::thread::sleep(Duration::from_millis(1100));
            signal(&child, &["CONT"]);
            std::thread::sleep(slice);
            slice *= 2;
        }
        // It finished before it could be frozen.
        fs::remove_file(at.join("x.h5")).unwrap();
    }
    panic!("no run could be frozen before its end");
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_run_goes_on() {
    let world = world();
    let at = world.path();
    let folder = many_pictures(at, 500);
    goes_on_after_a_kill(at, |out| {
        format!("features extract --images {} --like train.h5 --out {out}", folder.display())
    });
}

#[cfg(all(target_os = "linux", feature = "torch"))]
#[test]
fn a_killed_network_goes_on() {
    let world = world();
    let at = world.path();
    let folder = many_pictures(at, 500);
    let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cells.pt");
    goes_on_after_a_kill(at, |out| {
        format!(
            "features extract --images {} --backbone {} --size 16x24 --grid 2x3 --out {out}",
            folder.display(),
            network.display()
        )
    });
}

#[cfg(target_os = "linux")]
fn goes_on_after_a_kill(at: &Path, extract: impl Fn(&str) -> String) {
    let mut child = frozen_with_progress(at, &extract("x.h5"));
    // A second run does not wait, and damages nothing.
    let second = vqa(at, &extract("x.h5")).output().unwrap();
    assert!(stderr(&second).contains("x.h5: another process is writing it"), "{}", stderr(&second));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(at.join("x.h5.partial").exists() && !at.join("x.h5").exists());

    // Another job with the same output starts over, and says so.
    let other = vqa(at, "features extract --images data/images/val --like train.h5 --out x.h5").output().unwrap();
    assert!(stderr(&other).contains("of an earlier run cannot be used"), "{}", stderr(&other));
    assert!(!at.join("x.h5.partial").exists() && !at.join("x.h5.partial.json").exists());
    fs::remove_file(at.join("x.h5")).unwrap();

    // Stopped with Ctrl-C, it says that it can be resumed. It may finish before it notices the signal.
    let stopped = (0..100)
        .find_map(|_| {
            let child = frozen_with_progress(at, &extract("x.h5"));
            signal(&child, &["INT", "CONT"]);
            let output = child.wait_with_output().unwrap();
            let is_over = at.join("x.h5").exists();
            if is_over {
                fs::remove_file(at.join("x.h5")).unwrap();
            }
            (!is_over).then_some(output)
        })
        .expect("a run that is stopped before its end");
    assert_eq!(stopped.status.code(), Some(130));
    let last = stderr(&stopped);
    assert!(last.trim_end().ends_with("stopped; the same command resumes x.h5.partial"), "{last}");

    let output = vqa(at, &extract("x.h5")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("resuming after"), "{}", stderr(&output));
    assert!(!at.join("x.h5.partial").exists() && !at.join("x.h5.partial.json").exists());
    ok(at, &extract("whole.h5"));
    assert!(same(at, "x.h5", "whole.h5"));
}

/// Whenever a run is killed, its output is either missing or complete, and the next run is not disturbed.
#[cfg(target_os = "linux")]
#[test]
fn no_file_is_half_valid() {
    let world = world();
    let at = world.path();
    let folder = many_pictures(at, 100);
    let extract = |out: &str| format!("features extract --images {} --like train.h5 --out {out}", folder.display());
    let started = Instant::now();
    ok(at, &extract("whole.h5"));
    let whole = started.elapsed();
    // From the start of the run to about its end.
    for eighths in 0..=8 {
        for name in ["INT", "KILL"] {
            // Files left by a killed run don't count: the next run may end before it has seen them.
            let left = |name: &str| at.join(name).exists();
            let clean = !left("x.h5.partial") && !left("x.h5.partial.json");
            let _ = fs::remove_file(at.join("x.h5"));
            let child = start(at, &extract("x.h5"));
            std::thread::sleep(whole * eighths / 8);
            signal(&child, &[name]);
            let said = stderr(&child.wait_with_output().unwrap());
            assert!(!at.join("x.h5").exists() || same(at, "x.h5", "whole.h5"), "{eighths}/8");
            // When interrupted, it leaves files only if it says so.
            if clean && said.contains("what was not finished is removed") {
                assert!(!left("x.h5.partial") && !left("x.h5.partial.json"), "{eighths}/8");
            }
        }
    }
    ok(at, &format!("{} --force", extract("x.h5")));
    assert!(same(at, "x.h5", "whole.h5"));
    let left = fs::read_dir(at).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains("partial") || name.to_string_lossy().ends_with(".tmp")
    });
    assert_eq!(left.count(), 0);
}
