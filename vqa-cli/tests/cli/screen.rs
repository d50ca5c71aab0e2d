//! Tests of what a terminal shows during a run.

use crate::common::{prepared, vqa};
use crate::process::{signal, wait_for};
use crate::pty::{OnTerminal, Screen};

const TRAIN: &str = "train --config config.toml";

#[test]
fn bars_are_never_wider_than_the_terminal() {
    let world = prepared();
    let at = world.path();
    for columns in [80, 50, 20] {
        let command = vqa(at, &format!("{TRAIN} --set out_dir=run{columns} --set train.batch_size=4"));
        let (code, output) = OnTerminal::start(command, columns).finish();
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("epoch 1/2 "), "{output:?}");
        let screen = Screen::show(&output, columns.into());
        let is_bar =
            |line: &String| ["epoch 1/2", "epoch 2/2", "read", "validate"].iter().any(|bar| line.starts_with(bar));
        assert!(!screen.wrapped.iter().any(is_bar), "{:?}", screen.wrapped);
        // The bars leave nothing behind.
        assert!(!screen.lines.iter().any(is_bar), "{:#?}", screen.lines);
    }
}

#[test]
fn the_answer_to_ctrl_c_stays_on_the_screen() {
    let world = prepared();
    let at = world.path();
    let training = OnTerminal::start(vqa(at, &format!("{TRAIN} --set train.n_epochs=100000")), 80);
    wait_for("an epoch", || at.join("run/model_1.safetensors").exists());
    signal(&training.child, &["INT"]);
    let (code, output) = training.finish();
    assert_eq!(code, Some(130), "{output}");
    let screen = Screen::show(&output, 80);
    let has = |line: &str| screen.lines.iter().any(|shown| shown == line);
    assert!(has("finishing this step and saving; press Ctrl-C again to stop at once"), "{:#?}", screen.lines);
    assert!(screen.lines.iter().any(|line| line.starts_with("stopped after ")), "{:#?}", screen.lines);
    assert!(!output.contains("error"), "{output}");
}

#[test]
fn colours_are_for_terminals_and_can_be_switched_off() {
    let world = prepared();
    let at = world.path();
    // The run prints a warning that nothing is validated.
    let config = std::fs::read_to_string(at.join("config.toml")).unwrap();
    std::fs::write(at.join("other.toml"), config.replace("data.val", "data.other")).unwrap();
    for (value, coloured) in [("", true), ("1", false)] {
        let mut command = vqa(at, &format!("train --config other.toml --dry-run --set out_dir=run{value}"));
        command.env("NO_COLOR", value);
        let (_, output) = OnTerminal::start(command, 80).finish();
        let screen = Screen::show(&output, 80);
        assert!(output.contains("nothing is validated"), "{output}");
        assert_eq!(screen.coloured, coloured, "{output:?}");
    }
    let output = vqa(at, "train --config other.toml --dry-run").output().unwrap();
    assert!(!String::from_utf8(output.stderr).unwrap().contains('\x1b'));
}
