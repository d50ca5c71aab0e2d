//! Inputs that are not regular files or that change while they are read, and outputs that exceed a size limit.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

#[cfg(feature = "torch")]
use crate::common::prepared;
use crate::common::{fails, ok, stderr, vqa, world};

/// Nothing waits for a pipe that nobody writes to.
#[test]
fn a_pipe_is_refused_wherever_a_file_is_wanted() {
    let world = world();
    let at = world.path();
    assert!(Command::new("mkfifo").arg(at.join("pipe")).status().unwrap().success());
    fs::create_dir(at.join("pictures")).unwrap();
    fs::rename(at.join("pipe"), at.join("pictures/a_1.jpg")).unwrap();
    // `fails` reads all files of its directory, so the pipe must not be in it.
    let below = at.join("below");
    fs::create_dir(&below).unwrap();
    let pipe = "../pictures/a_1.jpg";
    let [json, annotations] =
        ["v2_OpenEnded_shapes_val_questions", "v2_shapes_val_annotations"].map(|name| format!("../data/{name}.json"));
    let mut commands = vec![
        format!("prepare --config {pipe}"),
        format!("prepare --config ../config.toml --set data.val.composition.0.a_jsons=[\"pictures/a_1.jpg\"]"),
        format!("score --questions {json} --annotations {annotations} --results {pipe}"),
        format!("features inspect {pipe}"),
        format!("features convert {pipe} --out x.h5"),
        format!("features convert ../val.h5 --ids {pipe} --out x.h5"),
        format!("features extract --images ../data/images/val --out x.h5 --like {pipe}"),
    ];
    if cfg!(feature = "torch") {
        ok(at, "prepare --config config.toml");
        commands.push(format!("evaluate --checkpoint {pipe} --data val"));
        commands.push(format!("train --config ../config.toml --init {pipe}"));
        fs::rename(at.join("pictures/a_1.jpg"), at.join("pictures/a_1.pth")).unwrap();
        fails(&below, "train --config ../config.toml --init ../pictures/a_1.pth", &["a pipe, not a file"]);
        fs::rename(at.join("pictures/a_1.pth"), at.join("pictures/a_1.jpg")).unwrap();
    }
    let extract = "features extract --images ../pictures --out x.h5 --grid 2x2";
    fails(&below, extract, &["no pictures in it", "1 pipe or device (../pictures/a_1.jpg)"]);
    for command in commands {
        fails(&below, &command, &["a_1.jpg", "a pipe, not a file"]);
    }
}

/// As in `--ids <(jq '.questions[].image_id' questions.json)`.
#[test]
fn ids_may_come_from_a_pipe() {
    let world = world();
    let at = world.path();
    let mut convert = vqa(at, "features convert train.h5 --ids /dev/stdin --out few.h5");
    let mut child = convert.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"3\n5\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("wrote 2 images"), "{output:?}");
}

/// Runs a command that may write files of at most `blocks` times 512 bytes.
fn with_file_limit(at: &Path, blocks: u32, arguments: &str) -> Output {
    let script = format!("ulimit -f {blocks} && exec \"$VQA\" {arguments}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("VQA", env!("CARGO_BIN_EXE_vqa")).env("OMP_NUM_THREADS", "1");
    command.current_dir(at).output().unwrap()
}

#[test]
fn a_file_size_limit_is_an_error_to_resume_from() {
    let world = world();
    let at = world.path();
    let extract = "features extract --images data/images/train --out x.h5 --like train.h5";
    let output = with_file_limit(at, 100, extract);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("raise it (`ulimit -f unlimited`)"), "{}", stderr(&output));
    ok(at, extract);
    assert!(fs::read(at.join("x.h5")).unwrap() == fs::read(at.join("train.h5")).unwrap());
    #[cfg(feature = "torch")]
    {
        ok(at, "prepare --config config.toml");
        let output = with_file_limit(at, 16, "train --config config.toml");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("raise it (`ulimit -f unlimited`)"), "{}", stderr(&output));
        assert!(
            crate::common::contents(at).keys().all(|path| path.extension().is_none_or(|extension| extension != "tmp"))
        );
        ok(at, "train --config config.toml --resume");
    }
}

/// Truncates a feature file during training, as copying another file over it does.
#[cfg(all(feature = "torch", target_os = "linux"))]
#[test]
fn a_feature_file_that_is_cut_short_in_training_is_named() {
    let world = prepared();
    let at = world.path();
    let whole = fs::read(at.join("train.h5")).unwrap();
    let mut child = crate::process::start(at, "train --config config.toml --set train.n_epochs=1000000");
    crate::process::wait_for("an epoch", || at.join("run/model_1.safetensors").exists());
    assert!(child.try_wait().unwrap().is_none());
    fs::File::options().write(true).open(at.join("train.h5")).unwrap().set_len(4096).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("error: ") && last.contains("train.h5: it was truncated while it was being read"),
        "{said}"
    );
    assert!(crate::common::contents(at).keys().all(|path| path.extension().is_none_or(|extension| extension != "tmp")));
    fs::write(at.join("train.h5"), whole).unwrap();
    ok(at, "train --config config.toml --resume --set train.n_epochs=3");
}
