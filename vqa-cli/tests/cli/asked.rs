//! What a trained model is asked about, and by which name it is found.

use std::fs;

use serde_json::Value;

use crate::common::{fails, ok, world};

/// Visual Genome's question ids are also VQA2.0's. Questions are scored and drawn by their place, not by their id.
#[test]
fn sources_may_share_question_ids() {
    let world = world();
    let at = world.path();
    ok(at, "prepare --config config.toml");
    ok(at, "train --config config.toml");
    let evaluate = |options: &str| -> Value {
        let printed = ok(at, &format!("evaluate --checkpoint run/model_2.safetensors --data val --json {options}"));
        serde_json::from_str(&printed).unwrap()
    };
    let once = evaluate("");
    let config = fs::read_to_string(at.join("config.toml")).unwrap();
    let val = config.split("[model]").next().unwrap().split("[[data.val.").nth(1).unwrap();
    fs::write(at.join("twice.toml"), format!("{config}\n[[data.val.{val}")).unwrap();
    let twice = evaluate("--config twice.toml");
    let n = |evaluation: &Value| evaluation["n_questions"].as_u64().unwrap();
    assert_eq!(n(&twice), 2 * n(&once));
    assert_eq!((&twice["accuracy"], &twice["soft_score"]), (&once["accuracy"], &once["soft_score"]));

    // The first batch of 32 questions has none twice; all of them have each twice.
    let visualize = "visualize --checkpoint run/model_2.safetensors --data val --config twice.toml --out-dir maps";
    ok(at, &format!("{visualize} --batch-size {} --n-batches 1", n(&twice)));
    let folder = at.join("maps/run_model_2_val_visualization");
    let folders = fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders as u64, n(&twice));
}

/// A run stands for its best epoch.
#[test]
fn a_checkpoint_is_found_by_its_run() {
    let world = world();
    let at = world.path();
    ok(at, "prepare --config config.toml");
    let said = ok(at, "train --config config.toml --set train.n_epochs=3");
    let best = said.lines().last().unwrap().strip_prefix("best: ").unwrap().split(',').next().unwrap();
    let evaluate = |checkpoint: &str| ok(at, &format!("evaluate --checkpoint {checkpoint} --data val"));
    assert_eq!(evaluate("run"), evaluate(best));
    fails(at, "evaluate --checkpoint data --data val", &["data: a directory without checkpoints"]);
}
