//! Runs the program, on a small shapes world with a model.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

/// The program, run in a directory: the one that `VQA` names, or else the repository's development build.
pub fn vqa(directory: &Path, arguments: &str) -> Command {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/debug/vqa");
    let program = env::var_os("VQA").map_or_else(|| PathBuf::from(built), PathBuf::from);
    assert!(program.is_file(), "{} is missing: cargo build --workspace --bin vqa", program.display());
    let mut command = Command::new(program);
    command.current_dir(directory).args(arguments.split_whitespace());
    // As in the program's own tests.
    command.env("OMP_NUM_THREADS", "1").env("OMP_WAIT_POLICY", "passive");
    command
}

/// Runs a command line that must succeed.
pub fn ok(directory: &Path, arguments: &str) {
    let output = vqa(directory, arguments).output().unwrap();
    assert!(output.status.success(), "vqa {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory with a world and a trained run, created once and only read. The split `no_pictures` is `val` without its
/// pictures.
pub fn world() -> &'static Path {
    static WORLD: LazyLock<PathBuf> = LazyLock::new(|| {
        // The world is left on disk for debugging failed tests, and replaced by the next run.
        let world = Path::new(env!("CARGO_TARGET_TMPDIR")).join("world");
        if world.exists() {
            fs::remove_dir_all(&world).unwrap();
        }
        fs::create_dir_all(&world).unwrap();
        make_world(&world);
        world
    });
    &WORLD
}

fn make_world(at: &Path) {
    // Enough that the training split has more than the 60 images that the page lists at once.
    ok(at, "synth --out data --images 78");
    ok(at, "features extract --images data/images/train --out train.h5 --grid 4x5 --whole --patch 4");
    ok(at, "features extract --images data/images/val --out val.h5 --like train.h5");
    let split = |name: &str, files: &str, pictures: &str| {
        format!(
            "[[data.{name}.composition]]\n\
             q_jsons = [\"data/v2_OpenEnded_shapes_{files}_questions.json\"]\n\
             a_jsons = [\"data/v2_shapes_{files}_annotations.json\"]\n\
             features = \"{files}.h5\"\n{pictures}"
        )
    };
    let pictures = |name: &str| format!("images = \"data/images/{name}/shapes_{name}_{{image_id:012}}.jpg\"\n");
    let config = format!(
        "seed = 7\ndevice = \"cpu\"\nout_dir = \"run\"\n{}{}\
         [model]\nhid_dim = 16\n[model.lm]\nword_emb_dim = 8\n\
         [model.topdown_att]\nhid_dim = 16\n[model.mlp]\nhid_dim = 16\n\
         [train]\nn_epochs = 2\nbatch_size = 32\nlog_every = 5\n",
        split("train", "train", &pictures("train")),
        split("val", "val", &pictures("val")),
    );
    fs::write(at.join("config.toml"), config).unwrap();
    ok(at, "prepare --config config.toml");
    ok(at, "train --config config.toml");
    fs::write(at.join("no_pictures.toml"), split("no_pictures", "val", "")).unwrap();
}

/// A running `vqa serve`, killed on drop.
pub struct Server {
    process: Child,
    pub url: String,
    /// A directory for the test's files; verdicts are collected in `verdicts.jsonl`.
    pub directory: TempDir,
}

impl Server {
    /// Serves the model of the [`world`].
    pub fn start(arguments: &str) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let mut command = vqa(world(), "serve run --port 0 --collect");
        command.arg(directory.path().join("verdicts.jsonl")).args(arguments.split_whitespace());
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        Server { url: url.unwrap_or_else(|| panic!("vqa serve said {line:?}")).to_owned(), process, directory }
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A picture of the world, by the number of the image.
pub fn picture(split: &str, image_id: u64) -> PathBuf {
    world().join(format!("data/images/{split}/shapes_{split}_{image_id:012}.jpg"))
}
