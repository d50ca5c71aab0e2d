//! Tests of the program's environment: where its output goes, other processes, and what it was started with.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{fails, ok, prepared, vqa, world};

/// A run continues whatever happens to its log: a full disk, or a reader that has gone away.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let world = prepared();
    let at = world.path();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let train = |name: &str| {
        let mut command = vqa(at, &format!("train --config config.toml --set out_dir={name} --set train.log_every=1"));
        command.stdout(Stdio::null());
        command
    };
    assert!(train("full").stderr(full()).status().unwrap().success());
    let mut child = train("gone").stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    for name in ["full", "gone"] {
        assert!(at.join(name).join("model_2.safetensors").exists(), "{name}");
    }
    // An error is still reported in the exit code.
    assert_eq!(vqa(at, "train --config nowhere.toml").stderr(full()).status().unwrap().code(), Some(1));
}

/// `nohup` starts programs with SIGHUP ignored, and it must stay ignored.
#[test]
fn an_ignored_hangup_stays_ignored() {
    let world = prepared();
    let at = world.path();
    // The shell that started the program sends the signal, once the run is under way.
    let script = "trap '' HUP\n\
        $VQA train --config config.toml --set train.n_epochs=3 2>/dev/null &\n\
        until [ -e run/model_1.safetensors ]; do sleep 0.02; done\n\
        kill -HUP $!\n\
        wait $!";
    let status = Command::new("sh")
        .args(["-c", script])
        .env("VQA", env!("CARGO_BIN_EXE_vqa"))
        .current_dir(at)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(at.join("run/model_3.safetensors").exists());
}

/// A config that somebody wrote is never replaced by that of a run.
#[test]
fn a_config_is_not_overwritten() {
    let world = prepared();
    let at = world.path();
    let train = "train --config config.toml";
    fails(at, &format!("{train} --set out_dir=."), &["config.toml: the run would overwrite it", "another out_dir"]);
    fails(at, &format!("{train} --set out_dir={}", at.display()), &["the run would overwrite it"]);
    fails(at, &format!("{train} --set out_dir="), &["out_dir is empty"]);
    // A run may replace its own config.
    ok(at, "train --config config.toml --set train.n_epochs=1");
    ok(at, "train --config run/config.toml --resume --set train.n_epochs=2");
}

/// Nor is any other file that no run wrote; those of a run that was killed before it saved anything are.
#[test]
fn files_of_others_are_not_overwritten() {
    let world = prepared();
    let at = world.path();
    let train = "train --config config.toml --set train.n_epochs=1 --set out_dir=mine";
    let mine = at.join("mine");
    fs::create_dir(&mine).unwrap();
    for name in ["config.toml", "words.json", "answers.json", "metrics.jsonl", "curves.svg"] {
        fs::write(mine.join(name), "my own").unwrap();
        for mode in ["", "--dry-run", "--resume"] {
            fails(at, &format!("{train} {mode}"), &[&format!("mine/{name}: no run wrote it"), "another out_dir"]);
        }
        fs::remove_file(mine.join(name)).unwrap();
    }
    // Dictionaries are not changed.
    fs::copy(at.join("words.json"), mine.join("words.json")).unwrap();
    fs::rename(at.join("answers.json"), mine.join("answers.json")).unwrap();
    let train = format!("{train} --set dict.answers=mine/answers.json");
    ok(at, &train);
    // As if it had been killed earlier.
    fs::remove_file(mine.join("state/state.safetensors")).unwrap();
    fs::remove_file(mine.join("model_1.safetensors")).unwrap();
    ok(at, &train);
}

/// Whatever its config, a second training run fails with a message about the first, which is not disturbed.
#[test]
fn a_second_training_changes_nothing() {
    let world = prepared();
    let at = world.path();
    let mut child =
        vqa(at, "train --config config.toml --set train.n_epochs=1000000").stderr(Stdio::null()).spawn().unwrap();
    while !at.join("run/model_1.safetensors").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for options in ["", "--resume", "--set model.hid_dim=32", "--resume --set seed=8"] {
        let output = vqa(at, &format!("train --config config.toml {options}")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("run: another process is training in it"), "{options}: {said}");
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read_to_string(at.join("run/config.toml")).unwrap().contains("n_epochs = 1000000"));
}

/// A training run that cannot start leaves no directory behind.
#[test]
fn a_run_that_cannot_begin_leaves_nothing() {
    let world = world();
    let at = world.path();
    let exists = |path: &str| Path::new(&at.join(path)).exists();
    fails(at, "train --config config.toml --resume --set out_dir=new/run", &["words.json", "vqa prepare"]);
    assert!(!exists("new"), "made and removed again");
    ok(at, "prepare --config config.toml");
    fails(at, "train --config config.toml --set out_dir=new/run --set model.init=no.pth", &["no.pth", "no such file"]);
    assert!(!exists("new"));
}

/// The threads of libtorch's products must not spin when others want the cores. The policy is in the environment before
/// the library that reads it is loaded; a value set by the user is kept.
#[cfg(target_os = "linux")]
#[test]
fn products_wait_without_spinning() {
    let world = prepared();
    let at = world.path();
    for (name, set, expected) in [("unset", None, "passive"), ("set", Some("active"), "active")] {
        let mut command =
            vqa(at, &format!("train --config config.toml --set train.n_epochs=1000000 --set out_dir={name}"));
        command.env_remove("OMP_WAIT_POLICY").envs(set.map(|policy| ("OMP_WAIT_POLICY", policy)));
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        while !at.join(name).join("model_1.safetensors").exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let environment = fs::read(format!("/proc/{}/environ", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let expected = format!("OMP_WAIT_POLICY={expected}");
        let found: Vec<&[u8]> = environment.split(|&byte| byte == 0).filter(|v| v.starts_with(b"OMP_WAIT")).collect();
        assert_eq!(found, [expected.as_bytes()], "{name}");
    }
}

/// Several threads for each core would add up to thousands on a large machine.
#[cfg(target_os = "linux")]
#[test]
fn threads_are_two_a_core() {
    const N_CORES: usize = 32;
    let world = prepared();
    let at = world.path();
    let n = N_CORES.to_string();
    let mut command =
        vqa(at, "train --config config.toml --set train.n_epochs=1000000 --set train.keep_last=1 --set out_dir=out");
    command.env("OMP_NUM_THREADS", &n).env("RAYON_NUM_THREADS", &n);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    while !at.join("out/model_2.safetensors").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let n_threads = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!((N_CORES..=2 * N_CORES + 16).contains(&n_threads), "{n_threads} threads for {N_CORES} cores");
}
