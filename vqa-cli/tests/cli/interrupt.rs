//! Ctrl-C: training stops at a step, and goes on to the numbers of the run that was not stopped.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{contents, epochs, ok, vqa, world};

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_numbers() {
    let world = world();
    let at = world.path();
    ok(at, "prepare --config config.toml");
    for name in ["-INT", "-TERM"] {
        let run = at.join(format!("run{name}"));
        let train = format!("train --config config.toml --set out_dir={}", run.display());
        let mut command = vqa(at, &format!("{train} --set train.n_epochs=100000"));
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !run.join("model_2.safetensors").exists() {
            assert!(started.elapsed() < Duration::from_secs(120), "two epochs take no two minutes");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = crate::common::stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.starts_with("error: stopped in epoch")
                && last.contains("go on with `vqa train --config config.toml --resume`"),
            "{stderr}"
        );

        let n_done = epochs(&run).len();
        assert!(n_done >= 2 && run.join(format!("model_{n_done}.safetensors")).exists());
        assert!(contents(&run).keys().all(|path| !path.to_string_lossy().ends_with(".tmp")));
        let n_epochs = n_done + 2;
        ok(at, &format!("{train} --resume --set train.n_epochs={n_epochs}"));
        let whole = at.join(format!("whole{name}"));
        ok(
            at,
            &format!("train --config config.toml --set out_dir={} --set train.n_epochs={n_epochs}", whole.display()),
        );
        assert_eq!(epochs(&run), epochs(&whole));
        let last = format!("model_{n_epochs}.safetensors");
        let bytes = |run: &Path| std::fs::read(run.join(&last)).unwrap();
        assert!(bytes(&run) == bytes(&whole), "the checkpoints are the same, byte for byte");
    }
}
