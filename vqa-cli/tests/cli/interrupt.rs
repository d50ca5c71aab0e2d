//! Ctrl-C, SIGTERM and SIGKILL: a run goes on to the numbers of the run that nobody stopped.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use vqa_data::random::split_mix_64;
use vqa_model::run::RunDir;
use vqa_train::Position;

use crate::common::{assert_same_runs, contents, ok, stderr, vqa, world};

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} takes no two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(at: &Path, arguments: &str) -> Child {
    vqa(at, arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// The command that the last line of an interrupted run names.
fn named_command(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: stopped after ") && last.contains(", and saved: go on with `vqa "), "{said}");
    last.split('`').nth(1).unwrap().strip_prefix("vqa ").unwrap().to_owned()
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_numbers() {
    let world = world();
    let at = world.path();
    ok(at, "prepare --config config.toml");
    for name in ["-INT", "-TERM"] {
        let run = at.join(format!("run{name}"));
        let child =
            start(at, &format!("train --config config.toml --set out_dir=run{name} --set train.n_epochs=100000"));
        wait_for("two epochs", || run.join("model_2.safetensors").exists());
        signal(&child, name);
        let command = named_command(&child.wait_with_output().unwrap());
        assert_eq!(command, format!("train --config run{name}/config.toml --resume"));
        assert!(contents(&run).keys().all(|path| !path.to_string_lossy().ends_with(".tmp")));

        let progress = Position::saved_in(&RunDir::new(&run)).unwrap().unwrap();
        assert!(progress.epoch >= 2, "{progress:?}");
        let n_epochs = progress.epoch + 2;
        ok(at, &format!("{command} --set train.n_epochs={n_epochs}"));
        let whole = format!("train --config config.toml --set out_dir=whole{name} --set train.n_epochs={n_epochs}");
        ok(at, &whole);
        assert_same_runs(&run, &at.join(format!("whole{name}")));
    }
}

/// A model whose steps take long, in a run that is at its first.
fn slow_run(at: &Path) -> Child {
    ok(at, "prepare --config config.toml");
    let wide = "--set model.hid_dim=3000 --set model.mlp.hid_dim=3000 --set model.topdown_att.hid_dim=3000";
    let child = start(at, &format!("train --config config.toml --set train.batch_size=382 {wide}"));
    wait_for("reading the data", || at.join("run/metrics.jsonl").exists());
    child
}

#[test]
fn the_first_epoch_is_saved_too() {
    let world = world();
    let at = world.path();
    let child = slow_run(at);
    signal(&child, "-INT");
    let command = named_command(&child.wait_with_output().unwrap());
    let progress = Position::saved_in(&RunDir::new(at.join("run"))).unwrap().unwrap();
    assert_eq!((progress.epoch, progress.batch, progress.step), (0, 1, 1));
    assert!(!at.join("run/model_1.safetensors").exists());
    // It is not begun anew by mistake.
    let again = "train --config run/config.toml";
    crate::common::fails(at, again, &["this run is in it already, saved after batch 1 of epoch 1", "--resume"]);
    let output = vqa(at, &format!("{command} --set train.n_epochs=1")).output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("going on after batch 1 of epoch 1; changed: train.n_epochs = 1, was 2"), "{said}");
    assert!(at.join("run/model_1.safetensors").exists());
}

#[test]
fn a_second_signal_stops_at_once() {
    let world = world();
    let at = world.path();
    let mut child = slow_run(at);
    let mut pipe = child.stderr.take().unwrap();
    signal(&child, "-INT");
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&said).contains("press Ctrl-C again to stop at once") {
        assert_eq!(pipe.read(&mut byte).unwrap(), 1);
        said.push(byte[0]);
    }
    signal(&child, "-INT");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
    let mut rest = String::new();
    pipe.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("error: interrupted") && !rest.contains("stopped after"), "{rest}");
    assert_eq!(Position::saved_in(&RunDir::new(at.join("run"))).unwrap(), None);
    assert!(contents(&at.join("run")).keys().all(|path| !path.to_string_lossy().ends_with(".tmp")));
}

#[test]
fn two_processes_do_not_train_in_one_directory() {
    let world = world();
    let at = world.path();
    let mut child = slow_run(at);
    // The run's own curves may be on their way.
    let contents = |at: &Path| {
        let mut files = contents(at);
        files.retain(|path, _| !path.starts_with(at.join("run/tensorboard")));
        files
    };
    let files = contents(at);
    let output = vqa(at, "train --config config.toml --set train.n_epochs=9").output().unwrap();
    assert!(stderr(&output).contains("run: another process is training in it"), "{}", stderr(&output));
    assert!(contents(at) == files);
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock ends with its process.
    ok(at, "train --config config.toml --resume");
}

/// Temporary files in a run's directory.
fn half_written(run: &Path) -> Vec<PathBuf> {
    let directories = [run.to_owned(), run.join("state")];
    let entries = directories.iter().flat_map(std::fs::read_dir).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "tmp")).collect()
}

/// `kill -9` at random moments, many of them in the middle of writing, for everything is saved after every few steps. More
/// of them with `VQA_KILLS=1000`; the same again with the `VQA_KILL_SEED` that it prints.
#[test]
fn killed_at_random_moments() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let n_kills = number("VQA_KILLS", 20);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("VQA_KILL_SEED", now.as_nanos() as u64 % 1_000_000);
    eprintln!("VQA_KILL_SEED={seed}");
    let mut state = seed;
    let mut random = |n: u64| {
        state = split_mix_64(state);
        state % n
    };

    let world = world();
    let at = world.path();
    ok(at, "prepare --config config.toml");
    let train = |run: &str| {
        format!(
            "train --config config.toml --set out_dir={run} --set train.n_epochs=40 --set train.keep_last=2 --set train.log_every=1"
        )
    };
    ok(at, &train("whole"));
    // How long it takes to start.
    let started = Instant::now();
    ok(at, &format!("{} --resume", train("whole")));
    let start_us = started.elapsed().as_micros() as u64;

    let (mut n_killed, mut n_half_written, mut n_finished) = (0, 0, 0);
    while n_killed < n_kills || n_finished == 0 {
        let name = format!("run{n_finished}");
        let run = RunDir::new(at.join(&name));
        let before = Position::saved_in(&run).unwrap().unwrap_or_default();
        let every = 1 + random(3);
        let mut child = start(at, &format!("{} --resume --set train.checkpoint_every={every}", train(&name)));
        if n_killed < n_kills {
            // Half of them at any time, half while a file is being written.
            if random(2) == 0 {
                std::thread::sleep(Duration::from_micros(start_us / 2 + random(2 * start_us)));
            } else {
                let (mut seen, n) = (BTreeSet::new(), 1 + random(6) as usize);
                while seen.len() < n && child.try_wait().unwrap().is_none() {
                    seen.extend(half_written(run.path()));
                }
            }
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        // The state is whole, and never an earlier one.
        let after = Position::saved_in(&run).unwrap().unwrap_or_default();
        assert!(after.step >= before.step, "{before:?} {after:?}");
        match output.status.code() {
            Some(0) => {
                assert_same_runs(run.path(), &at.join("whole"));
                n_finished += 1;
            }
            None => {
                n_killed += 1;
                n_half_written += u64::from(!half_written(run.path()).is_empty());
            }
            code => panic!("{code:?}: {}", stderr(&output)),
        }
    }
    eprintln!("{n_killed} kills, {n_half_written} of them in the middle of writing; {n_finished} runs");
}
