//! Ctrl-C, SIGTERM and SIGKILL: a resumed run gives the same results as an uninterrupted one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vqa_data::random::split_mix_64;
use vqa_model::run::RunDir;
use vqa_train::Position;

use crate::common::{assert_same_runs, contents, ok, prepared, stderr, vqa};
use crate::process::{freeze, signal, start, wait_for};

/// The command to resume, from the last line of an interrupted run.
fn named_command(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("stopped after ") && last.contains(", and saved: resume with `vqa "), "{said}");
    last.split('`').nth(1).unwrap().strip_prefix("vqa ").unwrap().to_owned()
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_numbers() {
    let world = prepared();
    let at = world.path();
    for name in ["INT", "TERM"] {
        let run = at.join(format!("run-{name}"));
        let child =
            start(at, &format!("train --config config.toml --set out_dir=run-{name} --set train.n_epochs=100000"));
        wait_for("two epochs", || run.join("model_2.safetensors").exists());
        signal(&child, &[name]);
        let command = named_command(&child.wait_with_output().unwrap());
        assert_eq!(command, format!("train --config run-{name}/config.toml --resume"));
        assert!(contents(&run).keys().all(|path| !path.to_string_lossy().ends_with(".tmp")));

        let progress = Position::saved_in(&RunDir::new(&run)).unwrap().unwrap();
        assert!(progress.epoch >= 2, "{progress:?}");
        let n_epochs = progress.epoch + 2;
        ok(at, &format!("{command} --set train.n_epochs={n_epochs}"));
        let whole = format!("train --config config.toml --set out_dir=whole-{name} --set train.n_epochs={n_epochs}");
        ok(at, &whole);
        assert_same_runs(&run, &at.join(format!("whole-{name}")));
    }
}

/// A run frozen in its first epoch, after at least one step, with hundreds to go and nothing saved; and the name of its
/// directory.
fn frozen_in_the_first_epoch(at: &Path) -> (Child, String) {
    let names = (1..100).map(|n| format!("run{n}")).filter(|name| !at.join(name).exists());
    for name in names {
        let steps = "--set train.batch_size=1 --set train.log_every=1";
        let width = "--set model.hid_dim=200 --set model.mlp.hid_dim=200 --set model.topdown_att.hid_dim=200";
        let mut child = start(at, &format!("train --config config.toml --set out_dir={name} {steps} {width}"));
        let run = RunDir::new(at.join(&name));
        let metrics = run.path().join("metrics.jsonl");
        wait_for("a step", || {
            std::fs::metadata(&metrics).is_ok_and(|file| file.len() > 0) || child.try_wait().unwrap().is_some()
        });
        if freeze(&mut child) && Position::saved_in(&run).unwrap().is_none() {
            return (child, name);
        }
        // It had ended, or saved something, before it could be frozen.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("no run could be frozen in its first epoch");
}

#[test]
fn the_first_epoch_is_saved_too() {
    let world = prepared();
    let at = world.path();
    let (output, name, saved) = (0..100)
        .find_map(|_| {
            let (child, name) = frozen_in_the_first_epoch(at);
            signal(&child, &["INT", "CONT"]);
            let output = child.wait_with_output().unwrap();
            let saved = Position::saved_in(&RunDir::new(at.join(&name))).unwrap()?;
            // The run may have noticed the signal in a later epoch.
            (saved.epoch == 0).then_some((output, name, saved))
        })
        .expect("a run that is saved in its first epoch");
    let command = named_command(&output);
    assert!(saved.batch >= 1 && saved.batch == saved.step, "{saved:?}");
    assert!(!at.join(&name).join("model_1.safetensors").exists());
    // The run cannot be started over by mistake.
    let place = format!("after batch {} of epoch 1", saved.batch);
    let again = format!("train --config {name}/config.toml");
    crate::common::fails(at, &again, &["it already contains this run", &format!("saved {place}"), "--resume"]);
    let output = vqa(at, &format!("{command} --set train.n_epochs=1")).output().unwrap();
    let said = stderr(&output);
    assert!(said.contains(&format!("resuming {place}; changed: train.n_epochs = 1, was 2")), "{said}");
    assert!(at.join(&name).join("model_1.safetensors").exists());
}

/// Uses two different signals, since two of the same kind sent together would be merged into one.
#[test]
fn a_second_signal_stops_at_once() {
    let world = prepared();
    let at = world.path();
    let stopped_at_once = (0..100).any(|_| {
        let (child, name) = frozen_in_the_first_epoch(at);
        signal(&child, &["INT", "TERM", "CONT"]);
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("press Ctrl-C again to stop at once"), "{said}");
        assert!(contents(&at.join(&name)).keys().all(|path| !path.to_string_lossy().ends_with(".tmp")));
        let saved = Position::saved_in(&RunDir::new(at.join(&name))).unwrap();
        let interrupted = said.contains("stopped; unfinished files are removed");
        assert!(interrupted || saved.is_some() && said.contains("stopped after "), "{said}");
        assert!(!said.contains("error:"), "{said}");
        // The run may have saved and stopped on the first signal before it noticed the second.
        interrupted && saved.is_none()
    });
    assert!(stopped_at_once);
}

#[test]
fn two_processes_do_not_train_in_one_directory() {
    let world = prepared();
    let at = world.path();
    let (mut child, name) = frozen_in_the_first_epoch(at);
    let files = contents(at);
    let train = format!("train --config config.toml --set out_dir={name}");
    let output = vqa(at, &format!("{train} --set train.n_epochs=9")).output().unwrap();
    assert!(stderr(&output).contains(&format!("{name}: another process is training in it")), "{}", stderr(&output));
    assert!(contents(at) == files);
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock is released when its process ends.
    ok(at, &format!("{train} --resume"));
}

/// Temporary files in a run's directory.
fn half_written(run: &Path) -> Vec<PathBuf> {
    let directories = [run.to_owned(), run.join("state")];
    let entries = directories.iter().flat_map(std::fs::read_dir).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "tmp")).collect()
}

/// `kill -9` at random moments, many of them in the middle of writing, since everything is saved after every few steps.
/// `VQA_KILLS=1000` kills more often; `VQA_KILL_SEED=2` picks other moments, and `VQA_KILL_SEED=clock` picks and prints
/// a seed.
#[test]
fn killed_at_random_moments() {
    let n_kills: u64 = std::env::var("VQA_KILLS").map_or(12, |value| value.parse().unwrap());
    let seed: u64 = match std::env::var("VQA_KILL_SEED").as_deref() {
        Ok("clock") => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000,
        Ok(value) => value.parse().unwrap(),
        Err(_) => 1,
    };
    eprintln!("VQA_KILL_SEED={seed}");
    let mut state = seed;
    let mut random = |n: u64| {
        state = split_mix_64(state);
        state % n
    };

    let world = prepared();
    let at = world.path();
    let train = |run: &str| {
        format!(
            "train --config config.toml --set out_dir={run} --set train.n_epochs=20 --set train.keep_last=2 --set train.log_every=1"
        )
    };
    ok(at, &train("whole"));
    // How long a run takes to start.
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
            // Half of the kills come at any time, half while a file is being written.
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
        // The state is complete, and never older than before.
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
