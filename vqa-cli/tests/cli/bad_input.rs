//! Bad input of every kind leads to one line that names the file and the remedy, and leaves nothing half-written.

use std::fs;
use std::path::Path;

#[cfg(feature = "torch")]
use vqa_data::{
    features::{FeatureFile, FeatureTable, FeatureWriter, RegionSource},
    files::IfExists,
};

use crate::common::{fails, stderr, vqa, world};
#[cfg(feature = "torch")]
use crate::common::{ok, prepared, trained};

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn questions_and_annotations() {
    let world = world();
    let at = world.path();
    let questions = at.join("data/v2_OpenEnded_shapes_val_questions.json");
    let annotations = at.join("data/v2_shapes_val_annotations.json");
    let whole = fs::read(&annotations).unwrap();
    let prepare = "prepare --config config.toml";

    truncate(&annotations);
    fails(
        at,
        prepare,
        &["v2_shapes_val_annotations.json", "ends in the middle", "line 1 column", "fetch the file again"],
    );
    fs::copy(&questions, &annotations).unwrap();
    fails(at, prepare, &["v2_shapes_val_annotations.json", "a questions file where an annotations file was expected"]);
    fs::remove_file(&annotations).unwrap();
    fails(at, prepare, &["v2_shapes_val_annotations.json", "no such file"]);
    fs::write(&annotations, &whole).unwrap();
    let other = at.join("data/v2_shapes_train_annotations.json");
    fs::copy(&other, &annotations).unwrap();
    fails(at, prepare, &["split \"val\"", "have no annotation in", "question ids 51000"]);
    fails(at, &format!("{prepare} --set dict.min_answer_count=1000000"), &["split \"val\""]);
    fs::write(&annotations, &whole).unwrap();
    fails(at, &format!("{prepare} --set dict.min_answer_count=1000000"), &["lower dict.min_answer_count"]);
    let bare = "--set data.train.composition.0.a_jsons=[] --set data.val.composition.0.a_jsons=[]";
    fails(at, &format!("{prepare} {bare}"), &["config.toml: no split has annotations", "a_jsons"]);

    let files = format!("--questions {} --annotations {}", questions.display(), annotations.display());
    fs::write(at.join("results.json"), "[{\"question_id\": 1, \"answer\": \"yes\"}]").unwrap();
    fails(at, &format!("score {files} --results results.json"), &["results.json", "have no answer in the results"]);
    fs::write(at.join("results.json"), "[{\"question_id\": 1}]").unwrap();
    fails(at, &format!("score {files} --results results.json"), &["results.json", "missing field `answer`"]);
}

#[test]
fn config_and_command_line() {
    let world = world();
    let at = world.path();
    edit(&at.join("config.toml"), "[train]\nn_epochs", "[train]\nn_epoch");
    #[cfg(feature = "torch")]
    fails(
        at,
        "prepare --config config.toml",
        &["config.toml: line", "\"train.n_epoch\"", "did you mean \"train.n_epochs\"?"],
    );
    edit(&at.join("config.toml"), "q_jsons", "q_json");
    fails(
        at,
        "prepare --config config.toml",
        &["config.toml: line", "did you mean \"data.train.composition.0.q_jsons\"?"],
    );
    fs::write(at.join("config.toml"), "seed = \n").unwrap();
    fails(at, "prepare --config config.toml", &["config.toml: line 1"]);
    fs::write(at.join("config.toml"), "").unwrap();
    fails(at, "prepare --config config.toml", &["no data splits"]);
    fails(at, "prepare --config nowhere.toml", &["nowhere.toml", "no such file"]);
    fails(at, "features extract --images data/images/val --out x.h5 --grid 4by4", &["expected ROWSxCOLUMNS"]);
    fails(
        at,
        "features extract --images data/images/val --out x.h5 --like train.h5 --grid 2x2",
        &["--grid 4x5 --whole"],
    );
    fails(
        at,
        "features extract --images data/images/val --out x.h5 --grid 99x99 --patch 999",
        &["x.h5", "smaller patch"],
    );
    fs::create_dir(at.join("empty")).unwrap();
    fails(at, "features extract --images empty --out x.h5 --grid 2x2", &["empty", "no pictures in it (.jpg"]);
    fails(at, "synth --out data --images 5", &["data/images: already exists"]);
}

#[test]
fn feature_files() {
    let world = world();
    let at = world.path();
    let whole = fs::read(at.join("train.h5")).unwrap();
    fs::write(at.join("train.h5"), "text").unwrap();
    fails(at, "features inspect train.h5", &["train.h5", "not an HDF5 file"]);
    fs::write(at.join("train.h5"), &whole).unwrap();
    truncate(&at.join("train.h5"));
    fails(at, "features inspect train.h5", &["train.h5", "shorter than its header says", "fetch it again"]);
    fails(at, "features extract --images data/images/val --out x.h5 --like train.h5", &["train.h5"]);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vqa-data/tests/data/h5");
    let other = fixtures.join("other.h5");
    fails(at, &format!("features inspect {}", other.display()), &["other.h5", "no dataset \"image_features\""]);
    fails(at, "features inspect nowhere.h5", &["nowhere.h5", "no such file"]);
    fs::write(at.join("data/images/val/broken_7.jpg"), [0xff, 0xd8, 0xff, 0xe0]).unwrap();
    fails(
        at,
        "features extract --images data/images/val --out x.h5 --grid 2x2",
        &["broken_7.jpg", "not a readable picture"],
    );
}

/// Writes to a file system of half a megabyte. This needs the right to mount one, which tests in a container often
/// have.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let world = world();
    let at = world.path();
    let small = at.join("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
        .arg(&small)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("skipped: no right to mount a small file system");
        return;
    }
    let checks = std::panic::catch_unwind(|| {
        let extract = "features extract --images data/images/train --out small/x.h5 --grid 4x5 --patch 16";
        let output = vqa(at, extract).output().unwrap();
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("no space left on the disk") && error.contains("free some"), "{error}");
        // What was written so far is kept, to resume once there is more room.
        assert!(error.contains("the same command resumes from there") && !small.join("x.h5").exists(), "{error}");
        fs::remove_file(small.join("x.h5.partial")).unwrap();
        fs::remove_file(small.join("x.h5.partial.json")).unwrap();
        #[cfg(feature = "torch")]
        {
            ok(at, "prepare --config config.toml");
            fs::write(small.join("ballast"), vec![0; 400 << 10]).unwrap();
            let error = fails_after_starting(at, "train --config config.toml --set out_dir=small/run");
            assert!(error.contains("no space left on the disk"), "{error}");
            // In the middle of a run, which resumes once there is room.
            fs::remove_dir_all(small.join("run")).unwrap();
            fs::write(small.join("ballast"), vec![0; 200 << 10]).unwrap();
            let train = "train --config config.toml --set train.n_epochs=12 --set train.checkpoint_every=1";
            let error = fails_after_starting(at, &format!("{train} --set out_dir=small/run"));
            assert!(error.contains("no space left on the disk"), "{error}");
            assert!(small.join("run/model_1.safetensors").exists() && !small.join("run/model_12.safetensors").exists());
            fs::remove_file(small.join("ballast")).unwrap();
            ok(at, &format!("{train} --set out_dir=small/run --resume"));
            ok(at, &format!("{train} --set out_dir=whole"));
            crate::common::assert_same_runs(&small.join("run"), &at.join("whole"));
        }
    });
    let _ = std::process::Command::new("umount").arg(&small).output();
    checks.unwrap();
}

/// Runs a command that fails after it has created its directory, and returns its message. It must leave no half-written
/// files.
#[cfg(feature = "torch")]
fn fails_after_starting(at: &Path, arguments: &str) -> String {
    let output = crate::common::vqa(at, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(crate::common::contents(at).keys().all(|path| path.extension().is_none_or(|extension| extension != "tmp")));
    crate::common::stderr(&output)
}

#[cfg(feature = "torch")]
#[test]
fn training() {
    let world = world();
    let at = world.path();
    let train = "train --config config.toml";
    fails(at, &format!("{train} --resume"), &["words.json", "vqa prepare", "without --resume"]);
    ok(at, "prepare --config config.toml");
    fails(at, &format!("{train} --set data.train.composition.0.features=nowhere.h5"), &["nowhere.h5", "no such file"]);
    fails(
        at,
        &format!("{train} --set data.train.composition.0.features=val.h5"),
        &["val.h5: it lacks the features of 50 images of the questions", "(image ids 1, 2"],
    );
    fails(at, &format!("{train} --set device=cuda:7"), &["no GPU can be used"]);
    fails(at, &format!("{train} --set device=gpu"), &["\"gpu\" is unknown"]);
    fails(at, &format!("{train} --set train.batch_size=0"), &["train.batch_size = 0"]);
    let unknown = format!("{train} --set train.optim.weight_decay_of.w_embb=0");
    fails(at, &unknown, &["weight_decay_of.\"w_embb\" matches no parameter", "w_emb"]);
    ok(at, "features extract --images data/images/val --out wide.h5 --grid 4x5 --patch 8");
    let wide = "--set data.val.composition.0.features=wide.h5";
    fails(at, &format!("{train} {wide}"), &["wide.h5 has 192 values per region", "train.h5 has 48", "--like"]);

    let bare = "--set data.val.composition.0.a_jsons=[]";
    fails(at, &format!("{train} {bare}"), &["config.toml: split \"val\": no annotations to validate with", "a_jsons"]);
    let never = "--set train.patience=1 --set train.val_freq=3";
    fails(at, &format!("{train} {never}"), &["train.patience = 1", "train.val_freq = 3 exceeds train.n_epochs = 2"]);

    let wild = format!("{train} --set out_dir=wild --set train.optim.lr=1e30");
    let error = fails_after_starting(at, &wild);
    assert!(error.contains("the loss is NaN at epoch 1, batch 2, step 2 (question ids "), "{error}");
    assert!(error.contains("lower train.optim.lr"), "{error}");

    ok(at, &format!("{train} --set train.n_epochs=1"));
    fails(at, &format!("{train} --set train.n_epochs=1"), &["run", "saved after epoch 1", "--resume"]);
    fails(at, &format!("{train} --set train.optim.lr=0.1"), &["a different config", "train.optim.lr = 0.1, was 0.002"]);
    let refused =
        ["--resume cannot change model.hid_dim = 32, was 16; seed = 8, was 7", "--config run/config.toml --resume"];
    fails(at, &format!("{train} --resume --set model.hid_dim=32 --set seed=8 --set device=auto"), &refused);
    edit(&at.join("config.toml"), "[[data.val.", "[[data.other.");
    fails(
        at,
        &format!("{train} --set train.patience=2 --set out_dir=x"),
        &["train.patience = 2 needs a split \"val\""],
    );
    edit(&at.join("config.toml"), "[[data.other.", "[[data.val.");
    let huge = format!("{train} --set out_dir=huge --set model.lm.word_emb_dim=100000000000000");
    fails(at, &huge, &["config.toml: model.lm.word_emb_dim = 100000000000000, expected 1 to 65536"]);

    // Features of a different length, weights of another model, dictionaries of another run.
    let model = "--checkpoint run/model_1.safetensors --data val";
    let config = fs::read_to_string(at.join("config.toml")).unwrap();
    fs::write(at.join("wide.toml"), config.replace("\"val.h5\"", "\"wide.h5\"")).unwrap();
    fails(
        at,
        &format!("evaluate {model} --config wide.toml"),
        &["wide.h5: 192 values per region", "was trained on 48"],
    );
    fails(at, &format!("evaluate {model} --config nowhere.toml"), &["nowhere.toml", "no such file"]);
    fails(at, "evaluate --checkpoint run/model_9.safetensors --data val", &["model_9.safetensors", "no such file"]);
    fails(at, "evaluate --checkpoint run/model_1.safetensors --data test", &["no split \"test\"", "train, val"]);
    // Reported before the work; otherwise the error would be about the split.
    for (path, problem) in [("data", "so it is not replaced"), ("config.toml/x", "a file where a directory is needed")]
    {
        let model = "--checkpoint run --data test";
        fails(at, &format!("evaluate {model} --results {path}"), &[problem]);
        fails(at, &format!("predict {model} --out {path}"), &[problem]);
    }
    fails(at, "visualize --checkpoint run --data test --out-dir config.toml", &["a file where a directory is needed"]);
    edit(&at.join("run/config.toml"), "hid_dim = 16", "hid_dim = 24");
    fails(at, &format!("evaluate {model}"), &["model_1.safetensors", "weights of another model"]);
    edit(&at.join("run/config.toml"), "hid_dim = 24", "hid_dim = 4611686018427387904");
    fails(at, &format!("evaluate {model}"), &["config.toml: model.hid_dim = 4611686018427387904, expected 1 to 65536"]);
    edit(&at.join("run/config.toml"), "hid_dim = 4611686018427387904", "hid_dim = 16");
    fs::write(at.join("run/answers.json"), "[\"yes\", \"no\"]").unwrap();
    fails(at, &format!("evaluate {model}"), &["run/answers.json: 2 entries"]);
    fs::remove_file(at.join("run/config.toml")).unwrap();
    fails(at, &format!("evaluate {model}"), &["config.toml", "belong beside it"]);
    truncate(&at.join("run/model_1.safetensors"));
    fails(at, &format!("evaluate {model}"), &["model_1.safetensors", "not a complete safetensors file"]);
}

/// With features of another extractor a model answers worse, with no other sign that something is wrong.
#[cfg(feature = "torch")]
#[test]
fn features_of_another_extractor() {
    let world = trained();
    let at = world.path();
    let summary: serde_json::Value = serde_json::from_str(&ok(at, "features inspect val.h5 --json")).unwrap();
    assert_eq!(summary["extractor"]["grid"], serde_json::json!([4, 5]));
    assert_eq!((&summary["extractor"]["whole"], &summary["extractor"]["patch"]), (&true.into(), &4.into()));
    // The same number of regions and features, but with a different mean and deviation.
    let others = "features extract --images data/images/val --grid 4x5 --whole --patch 4 --out val.h5 --force";
    ok(at, others);
    let words = ["val.h5: its features and those of", "what differs: deviation, mean", "\"patch\":4"];
    let model = "--checkpoint run/model_1.safetensors --data val";
    for command in [
        &format!("evaluate {model}"),
        &format!("predict {model} --out x.json"),
        "train --config config.toml --set out_dir=other",
    ] {
        fails(at, command, &words);
    }
    fails(at, &format!("evaluate {model}"), &["its features and those of the model run/model_1.safetensors"]);
    fails(at, "features convert train.h5 val.h5 --out both.h5", &words);
    // Files of older versions and other programs do not record the extractor; only the lengths of their features are
    // compared.
    let val = FeatureFile::open(at.join("val.h5")).unwrap();
    let table = FeatureTable { extractor: None, ..val.table().unwrap() };
    let writer = FeatureWriter::create(&at.join("old.h5"), table, IfExists::Refuse).unwrap();
    let (mut features, mut boxes) = (vec![0.0; 21 * val.feature_dim()], vec![0.0; 21 * 4]);
    for row in 0..val.n_images() {
        val.read(row, &mut features, &mut boxes).unwrap();
        writer.write(row, &features, &boxes).unwrap();
    }
    writer.finish().unwrap();
    fs::rename(at.join("old.h5"), at.join("val.h5")).unwrap();
    ok(at, &format!("evaluate {model}"));
}

#[cfg(feature = "torch")]
#[test]
fn a_run_is_resumed_with_its_own_data() {
    let world = prepared();
    let at = world.path();
    ok(at, "train --config config.toml --set train.n_epochs=1");
    let resume = "train --config config.toml --resume";
    let changes = |path: &str, change: &dyn Fn(&str) -> String, words: &[&str]| {
        let before = fs::read_to_string(at.join(path)).unwrap();
        fs::write(at.join(path), change(&before)).unwrap();
        fails(at, resume, words);
        fs::write(at.join(path), before).unwrap();
    };
    let reversed = |text: &str| {
        let mut entries: Vec<String> = serde_json::from_str(text).unwrap();
        entries.reverse();
        serde_json::to_string(&entries).unwrap()
    };
    changes("run/words.json", &reversed, &["state.safetensors: the word dictionary changed since"]);
    changes("run/answers.json", &reversed, &["state.safetensors: the answer dictionary changed since"]);
    for (split, what) in [("train", "training"), ("val", "validation")] {
        let questions = format!("data/v2_OpenEnded_shapes_{split}_questions.json");
        let changed = |text: &str| text.replacen("what", "is there what", 1).replacen("What", "Is there what", 1);
        changes(&questions, &changed, &[&format!("the {what} questions changed since")]);
        // The same pictures and feature length, but different values.
        let features = at.join(format!("{split}.h5"));
        let before = fs::read(&features).unwrap();
        ok(at, &format!("features convert {split}.h5 --out half.h5 --f16 --force"));
        fs::rename(at.join("half.h5"), &features).unwrap();
        fails(at, resume, &[&format!("the {what} features changed since")]);
        fs::write(&features, before).unwrap();
    }
    ok(at, resume);
}

/// Neither TOML nor HDF5 can hold such a path.
#[cfg(all(feature = "torch", target_os = "linux"))]
#[test]
fn a_path_that_is_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let world = prepared();
    let at = world.path();
    ok(at, "train --config config.toml --set train.n_epochs=1");
    let odd = at.join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).unwrap();
    fs::copy(at.join("run/model_1.safetensors"), odd.join("w.safetensors")).unwrap();
    fs::copy(at.join("val.h5"), odd.join("val.h5")).unwrap();
    for (arguments, path, words) in [
        ("train --config config.toml --set out_dir=new --init", "w.safetensors", "new/config.toml: cannot be written"),
        ("features inspect", "val.h5", "path is UTF-8: rename it"),
    ] {
        let output = crate::common::vqa(at, arguments).arg(odd.join(path)).output().unwrap();
        let said = crate::common::stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && !said.contains("bug in vqa"), "{said}");
    }
    assert!(!at.join("new").exists());
}

#[cfg(feature = "torch")]
#[test]
fn nan_features() {
    let world = prepared();
    let at = world.path();
    let mut bytes = fs::read(at.join("train.h5")).unwrap();
    // The features are nine tenths of the file.
    for place in [bytes.len() / 3, bytes.len() / 2].map(|place| place & !3) {
        bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(at.join("train.h5"), bytes).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&ok(at, "features inspect train.h5 --json")).unwrap();
    assert_eq!(summary["n_not_finite"], 2);
    // Training stops at whichever of the bad images comes first.
    let error = fails_after_starting(at, "train --config config.toml");
    assert!(error.contains("train.h5: image ") && error.contains(" has NaN or infinite features"), "{error}");
}

/// A message quotes only part of a hostile input, and sends the terminal no control sequences.
#[test]
fn messages_about_hostile_input_are_short() {
    let world = world();
    let at = world.path();
    let files =
        "--questions data/v2_OpenEnded_shapes_val_questions.json --annotations data/v2_shapes_val_annotations.json";
    fs::write(at.join("results.json"), format!("[{{\"question_id\": \"\\u001b]0;{}\"}}]", "ä".repeat(1_000_000)))
        .unwrap();
    let message = |command: &str| crate::common::stderr(&crate::common::vqa(at, command).output().unwrap());
    let dots = ["prepare --config config.toml --set ", &"x.".repeat(20_000), "x=1"].concat();
    let long_key = ["prepare --config config.toml --set ", &"x".repeat(100_000), "=1"].concat();
    let brackets = ["prepare --config config.toml --set seed=", &"[".repeat(100_000)].concat();
    for command in [format!("score {files} --results results.json"), dots, long_key, brackets] {
        let said = message(&command);
        assert!(said.starts_with("error: ") && said.chars().count() <= 2001 && !said.contains('\x1b'), "{said}");
    }
}
