//! Runs the binary, on a small shapes world.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use tempfile::TempDir;

/// The binary, run in a directory.
pub fn vqa(directory: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vqa"));
    command.current_dir(directory).args(arguments.split_whitespace());
    // Tests run in parallel, and the models are tiny: more threads would only wait for each other. With the policy
    // already set, the program need not restart itself.
    command.env("OMP_NUM_THREADS", "1").env("OMP_WAIT_POLICY", "passive");
    command
}

/// Runs a command line that must succeed; returns what it printed.
pub fn ok(directory: &Path, arguments: &str) -> String {
    let output = vqa(directory, arguments).output().unwrap();
    assert!(output.status.success(), "vqa {arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command line that must succeed; returns what it wrote to stderr.
pub fn said(directory: &Path, arguments: &str) -> String {
    let output = vqa(directory, arguments).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "vqa {arguments}: {said}");
    said
}

/// Runs a command line that must fail with one message containing all of `words`, and must leave every file in the
/// directory unchanged.
pub fn fails(directory: &Path, arguments: &str, words: &[&str]) {
    let before = contents(directory);
    let output = vqa(directory, arguments).output().unwrap();
    let stderr = stderr(&output);
    assert!(matches!(output.status.code(), Some(1 | 2)), "vqa {arguments}: {:?} {stderr}", output.status);
    assert_eq!(output.stdout, b"", "vqa {arguments}");
    // Besides the message there may be the first lines of a training run, and the usage that clap adds.
    let errors: Vec<&str> =
        stderr.lines().filter(|line| !line.starts_with("train: ") && !line.starts_with("resuming")).collect();
    assert!(errors[0].starts_with("error: "), "vqa {arguments}: {stderr}");
    if output.status.code() == Some(1) {
        assert_eq!(errors.len(), 1, "vqa {arguments}: one line is wanted: {stderr}");
    }
    for word in words {
        assert!(errors[0].contains(word), "vqa {arguments}: \"{word}\" is wanted: {stderr}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("bug in vqa"), "{stderr}");
    assert!(contents(directory) == before, "vqa {arguments} changed something");
}

/// All files below a directory with their contents.
pub fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// The files of a directory, by relative path.
struct Files {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The directory that they were created in.
    origin: String,
}

impl Files {
    fn of(directory: &TempDir) -> Files {
        let relative = |path: PathBuf| path.strip_prefix(directory.path()).unwrap().to_owned();
        Files {
            files: contents(directory.path()).into_iter().map(|(path, bytes)| (relative(path), bytes)).collect(),
            origin: directory.path().to_str().unwrap().to_owned(),
        }
    }

    /// Writes the files to a new directory. Paths in a run's config are changed to the new directory.
    fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (relative, bytes) in &self.files {
            let path = directory.path().join(relative);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if relative.ends_with("config.toml") {
                let text = std::str::from_utf8(bytes).unwrap();
                fs::write(path, text.replace(&self.origin, directory.path().to_str().unwrap())).unwrap();
            } else {
                fs::write(path, bytes).unwrap();
            }
        }
        directory
    }
}

/// A directory with a small shapes world, its features and `config.toml`. Like those below, it is generated once, and
/// copied for each test.
pub fn world() -> TempDir {
    static FILES: LazyLock<Files> = LazyLock::new(|| Files::of(&make_world()));
    FILES.write()
}

/// A [`world`] with its dictionaries.
#[cfg(feature = "torch")]
pub fn prepared() -> TempDir {
    static FILES: LazyLock<Files> = LazyLock::new(|| {
        let world = world();
        ok(world.path(), "prepare --config config.toml");
        Files::of(&world)
    });
    FILES.write()
}

/// A [`prepared`] world with a run of two epochs.
#[cfg(feature = "torch")]
pub fn trained() -> TempDir {
    static FILES: LazyLock<Files> = LazyLock::new(|| {
        let world = prepared();
        ok(world.path(), "train --config config.toml");
        Files::of(&world)
    });
    FILES.write()
}

fn make_world() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    ok(at, "synth --out data --images 60");
    ok(at, "features extract --images data/images/train --out train.h5 --grid 4x5 --whole --patch 4");
    ok(at, "features extract --images data/images/val --out val.h5 --like train.h5");
    let split = |name: &str| {
        format!(
            "[[data.{name}.composition]]\n\
             q_jsons = [\"data/v2_OpenEnded_shapes_{name}_questions.json\"]\n\
             a_jsons = [\"data/v2_shapes_{name}_annotations.json\"]\n\
             features = \"{name}.h5\"\n\
             images = \"data/images/{name}/shapes_{name}_{{image_id:012}}.jpg\"\n"
        )
    };
    let config = format!(
        "seed = 7\ndevice = \"cpu\"\nout_dir = \"run\"\n{}{}\
         [model]\nhid_dim = 16\n[model.lm]\nword_emb_dim = 8\n[model.topdown_att]\nhid_dim = 16\n[model.mlp]\nhid_dim = 16\n\
         [train]\nn_epochs = 2\nbatch_size = 32\nlog_every = 5\n",
        split("train"),
        split("val")
    );
    fs::write(at.join("config.toml"), config).unwrap();
    directory
}

/// The epoch lines of a run's metrics, without their durations.
#[cfg(feature = "torch")]
pub fn epochs(run: &Path) -> Vec<serde_json::Value> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["kind"] == "epoch")
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("seconds").unwrap();
            line
        })
        .collect()
}

/// Fails unless two runs have the same results: the same checkpoints and state, byte for byte, and the same metrics
/// except durations.
#[cfg(all(feature = "torch", unix))]
pub fn assert_same_runs(run: &Path, other: &Path) {
    let [(files, metrics), (other_files, other_metrics)] = [run, other].map(|run| {
        let mut files = contents(run);
        let metrics = String::from_utf8(files.remove(&run.join("metrics.jsonl")).unwrap()).unwrap();
        let metrics: Vec<String> = metrics
            .lines()
            .map(|line| {
                let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
                let is_duration = |key: &str| key.ends_with("_ms") || ["seconds", "samples_per_s"].contains(&key);
                line.as_object_mut().unwrap().retain(|key, _| !is_duration(key));
                line.to_string()
            })
            .collect();
        // These contain paths, times of day or the run's name.
        let is_comparable = |path: &Path| {
            !path.ends_with("config.toml")
                && !path.ends_with("curves.svg")
                && !path.starts_with(run.join("tensorboard"))
        };
        files.retain(|path, _| is_comparable(path));
        let files: BTreeMap<PathBuf, Vec<u8>> =
            files.into_iter().map(|(path, bytes)| (path.strip_prefix(run).unwrap().to_owned(), bytes)).collect();
        (files, metrics)
    });
    assert_eq!(metrics, other_metrics);
    assert_eq!(files.keys().collect::<Vec<_>>(), other_files.keys().collect::<Vec<_>>());
    for (path, bytes) in files {
        assert!(bytes == other_files[&path], "{} has other bytes", path.display());
    }
}
