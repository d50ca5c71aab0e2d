//! What a user sees of a run and decides by: curves, dry runs, blind scores, and initial weights.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{contents, epochs, fails, ok, prepared, said, stderr, trained, vqa, world};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Reads a run's directory with TensorBoard's own reader, as {tag: [[step, value], …]}. `None` if Python has no
/// tensorboard, which is a failure with VQA_REQUIRE_PYTORCH=1.
fn scalars(run: &Path) -> Option<Value> {
    const SCRIPT: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}).Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))";
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut search_path = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../.libtorch")];
    if let Some(path) = std::env::var_os("PYTHONPATH") {
        search_path.extend(std::env::split_paths(&path));
    }
    let command = |script: &str| {
        let mut command = Command::new(&python);
        command.env("PYTHONPATH", std::env::join_paths(&search_path).unwrap()).args(["-c", script]);
        command
    };
    let output = command(SCRIPT).arg(run.join("tensorboard")).output();
    if !output.as_ref().is_ok_and(|output| output.status.success()) {
        let check = command("import tensorboard").output();
        if check.as_ref().is_ok_and(|check| check.status.success()) {
            panic!("{}", stderr(&output.unwrap()));
        }
        assert!(
            std::env::var_os("VQA_REQUIRE_PYTORCH").is_none(),
            "{python} cannot import tensorboard ({check:?}): run `make setup`"
        );
        eprintln!("skipped: {python} has no tensorboard; `make setup` installs it");
        return None;
    }
    let output = output.unwrap();
    Some(json(String::from_utf8(output.stdout).unwrap().lines().last().unwrap()))
}

#[test]
fn curves_go_on_after_a_resume() {
    let world = prepared();
    let at = world.path();
    ok(at, "train --config config.toml --set train.n_epochs=1");
    let run = at.join("run");
    // The metrics as left by a run that was killed in its second epoch.
    let mut metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let step =
        metrics.lines().next().unwrap().replace("\"epoch\":1", "\"epoch\":2").replace("\"step\":5", "\"step\":15");
    metrics.push_str(&format!("{step}\n{{\"kind\":\"st"));
    fs::write(run.join("metrics.jsonl"), metrics).unwrap();
    ok(at, "train --config config.toml --resume");

    let svg = fs::read_to_string(run.join("curves.svg")).unwrap();
    let of_epochs = epochs(&run);
    for (name, key) in [("train", "train_score"), ("val", "val_score"), ("upper bound", "val_upper_bound")] {
        let entry = format!("{name} {:.2}", of_epochs[1][key].as_f64().unwrap());
        assert!(svg.contains(&entry), "{entry}");
    }
    assert!(of_epochs[0]["val_loss"].as_f64().unwrap() > 0.0 && of_epochs[1]["step"].as_u64().unwrap() > 15);

    let lines: Vec<Value> = fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().map(json).collect();
    let Some(scalars) = scalars(&run) else { return };
    for (kind, place, keys) in [
        ("step", "step", &["loss", "score", "lr", "samples_per_s"][..]),
        ("epoch", "epoch", &["train_loss", "train_score", "val_loss", "val_score", "val_upper_bound"]),
    ] {
        for key in keys {
            let expected: Vec<(u64, f32)> = lines
                .iter()
                .filter(|line| line["kind"] == kind)
                .map(|line| (line[place].as_u64().unwrap(), line[key].as_f64().unwrap() as f32))
                .collect();
            let found = scalars[format!("{kind}/{key}")].as_array().unwrap();
            let found: Vec<(u64, f32)> =
                found.iter().map(|point| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap() as f32)).collect();
            assert_eq!(found, expected, "{kind}/{key}");
        }
    }
    let shares = scalars["step/data_share"].as_array().unwrap();
    assert!(shares.iter().all(|point| (0.0..=100.0).contains(&point[1].as_f64().unwrap())));
}

#[test]
fn a_dry_run_says_what_a_run_would_take_and_writes_nothing() {
    let world = prepared();
    let at = world.path();
    let before = contents(at);
    let output = vqa(at, "train --config config.toml --dry-run --set train.precision=bf16").output().unwrap();
    let [report, said] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(contents(at) == before && !at.join("run").exists());
    let prepared = json(&ok(at, "prepare --config config.toml --json"));
    let (n, n_val) = (
        prepared["splits"]["train"]["n_questions"].as_u64().unwrap(),
        prepared["splits"]["val"]["n_questions"].as_u64().unwrap(),
    );
    let n_steps = n.div_ceil(32);
    for words in [
        format!("{n} questions about 50 images"),
        format!("{n_val} questions about 10 images"),
        format!("{n_steps} per epoch, of 32 questions each; {} in 2 epochs", 2 * n_steps),
        format!("w_emb {}", 8 * (prepared["n_words"].as_u64().unwrap() + 1)),
        "train.h5".to_owned(),
        " s a step (".to_owned(),
        "a step in bf16 takes ".to_owned(),
        "nothing was written".to_owned(),
    ] {
        assert!(report.contains(&words), "{words}: {report}");
    }
    // The system lists the processor's instruction sets.
    if let Ok(processor) = std::fs::read_to_string("/proc/cpuinfo") {
        assert_eq!(said.contains("bf16 will be slow"), !processor.contains("bf16"), "{said}");
    }
    // It finds problems that training would run into.
    for (out_dir, problem) in [("config.toml/run", "cannot create the directory"), ("~/run", "only a shell expands")] {
        let dry_run = format!("train --config config.toml --dry-run --set out_dir={out_dir}");
        fails(at, &dry_run, &[out_dir, problem]);
    }
    fails(at, "train --config config.toml --dry-run --set data.val.composition.0.features=no.h5", &["no.h5"]);
    ok(at, "train --config config.toml --set train.n_epochs=1");
    let before = contents(at);
    fails(at, "train --config config.toml --dry-run --set train.n_epochs=1", &["it already contains this run"]);
    let left = ok(at, "train --config config.toml --dry-run --resume");
    assert!(!left.contains("bf16"), "{left}");
    assert!(left.contains(&format!("{n_steps} in 1 epoch")), "{left}");
    assert!(contents(at) == before);
}

#[test]
fn blind_scores_and_answers_in_the_order_of_the_file() {
    let world = trained();
    let at = world.path();
    let evaluate = "evaluate --checkpoint run/model_2.safetensors --data val";
    let seen = json(&ok(at, &format!("{evaluate} --json --results in_order.json")));
    assert!(seen.get("blind").is_none());
    let blind = json(&ok(at, &format!("{evaluate} --blind --json")));
    for key in ["soft_score", "upper_bound", "accuracy", "n_questions"] {
        assert_eq!(blind[key], seen[key]);
    }
    assert_eq!(blind["blind"]["seed"], 7);
    let types = |accuracy: &Value| accuracy["perQuestionType"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(types(&blind["blind"]["accuracy"]), types(&seen["accuracy"]));
    assert_eq!(json(&ok(at, &format!("{evaluate} --blind --json"))), blind, "the seed fixes it");
    let text = ok(at, &format!("{evaluate} --blind"));
    assert!(text.lines().next().unwrap().ends_with("questions    score    blind  looking"), "{text}");
    // The most frequent types come first.
    let counts: Vec<usize> = text
        .lines()
        .skip_while(|line| *line != "by question type")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .map(|line| line[30..40].trim().parse().unwrap())
        .collect();
    assert!(counts.len() > 3 && counts.is_sorted_by(|a, b| a >= b), "{text}");

    // Scatters the questions of an image over the file by reordering it in steps of three.
    let questions = at.join("data/v2_OpenEnded_shapes_val_questions.json");
    let mut file = json(&fs::read_to_string(&questions).unwrap());
    let list = file["questions"].as_array_mut().unwrap();
    *list = (0..3).flat_map(|first| list.iter().skip(first).step_by(3).cloned().collect::<Vec<_>>()).collect();
    let ids: Vec<Value> = list.iter().map(|question| question["question_id"].clone()).collect();
    fs::write(&questions, file.to_string()).unwrap();
    let scattered = json(&ok(at, &format!("{evaluate} --json --results scattered.json --batch-size 8")));
    assert_eq!(scattered["accuracy"], seen["accuracy"]);
    let answers = |name: &str| json(&fs::read_to_string(at.join(name)).unwrap()).as_array().unwrap().clone();
    let (mut before, mut after) = (answers("in_order.json"), answers("scattered.json"));
    assert_eq!(after.iter().map(|answer| answer["question_id"].clone()).collect::<Vec<_>>(), ids);
    let id = |answer: &Value| answer["question_id"].as_u64();
    before.sort_by_key(id);
    after.sort_by_key(id);
    assert_eq!(before, after);
}

#[test]
fn a_run_begins_with_weights_of_another() {
    let world = trained();
    let at = world.path();
    // The steps change nothing, so the run ends with its initial weights.
    let still = "train --config config.toml --set train.optim.lr=1e-30 --set train.n_epochs=1 --set model.topdown_att.dropout=0.0 --set model.mlp.dropout=0.0";
    ok(at, &format!("{still} --set out_dir=still --init run/model_2.safetensors"));
    let bytes = |run: &str, epoch: u32| fs::read(at.join(run).join(format!("model_{epoch}.safetensors"))).unwrap();
    let (old, new) = (bytes("run", 2), bytes("still", 1));
    // The headers differ in their scores; the weights follow them.
    let numbers = |file: &[u8]| file[8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize..].to_vec();
    assert!(numbers(&old) == numbers(&new) && numbers(&old) != numbers(&bytes("run", 1)));
    assert!(fs::read_to_string(at.join("still/config.toml")).unwrap().contains("run/model_2.safetensors"));
    // The run's config records it, so it need not be given again on resume.
    ok(
        at,
        &still
            .replace("n_epochs=1", "n_epochs=2")
            .replace("train --config", "train --resume --set out_dir=still --config"),
    );
    assert_eq!(epochs(&at.join("still")).len(), 2);

    let other = format!("{still} --set out_dir=other");
    fails(at, &format!("{other} --init nowhere.pth"), &["nowhere.pth", "no such file"]);
    fails(
        at,
        &format!("{other} --init config.toml"),
        &["config.toml", "neither a safetensors file nor one from torch.save"],
    );
    fails(
        at,
        &format!("{other} --init run/model_2.safetensors --set model.hid_dim=24"),
        &["model_2.safetensors", "weights of another model", "is [48] in the file and [72] here"],
    );
    fails(at, &format!("{other} --init run/model_2.safetensors --resume"), &["cannot be used with"]);
    let mut words: Vec<String> = serde_json::from_slice(&fs::read(at.join("words.json")).unwrap()).unwrap();
    words.reverse();
    fs::write(at.join("words.json"), serde_json::to_vec(&words).unwrap()).unwrap();
    fails(at, &format!("{other} --init run/model_2.safetensors"), &["the dictionaries beside it differ"]);
}

/// Weights named on the command line are looked for in the working directory, where the shell completes their name, and
/// then beside the config.
#[test]
fn weights_to_begin_with_are_found() {
    let world = prepared();
    let at = world.path();
    ok(at, "train --config config.toml --set train.n_epochs=1");
    let below = at.join("below");
    fs::create_dir(&below).unwrap();
    fs::rename(at.join("run"), below.join("first")).unwrap();
    let train = |directory: &Path, config: &str, init: &str| {
        ok(directory, &format!("train --config {config} --set train.n_epochs=1 --set out_dir=again {init}"));
        let written: toml::Table = fs::read_to_string(at.join("again/config.toml")).unwrap().parse().unwrap();
        fs::remove_dir_all(at.join("again")).unwrap();
        fs::canonicalize(written["model"]["init"].as_str().unwrap()).unwrap()
    };
    let first = fs::canonicalize(below.join("first/model_1.safetensors")).unwrap();
    for (directory, config, weights) in [
        (at, "config.toml", "below/first/model_1.safetensors"),
        (&*below, "../config.toml", "first/model_1.safetensors"),
        (&below, "../config.toml", "below/first/model_1.safetensors"),
    ] {
        for init in ["--init ", "--set model.init="] {
            assert_eq!(train(directory, config, &format!("{init}{weights}")), first, "{init}{weights}");
        }
    }
    let error = vqa(&below, "train --config ../config.toml --init nowhere.pth").output().unwrap();
    assert!(stderr(&error).contains("below/nowhere.pth: no such file"), "{}", stderr(&error));
}

#[test]
fn a_finished_run_names_the_command_for_more() {
    let world = prepared();
    let at = world.path();
    let finished = |command: &str| {
        let last = said(at, command).lines().last().unwrap().to_owned();
        (last.split(';').next().unwrap().to_owned(), last.split('`').nth(1).unwrap().to_owned())
    };
    let (said, more) = finished("train --config config.toml");
    assert_eq!(said, "finished: 2 epochs");
    assert_eq!(finished("train --config run/config.toml --resume"), (said, more.clone()));
    assert_eq!(more, "vqa train --config run/config.toml --resume --set train.n_epochs=3");
    let (said, _) = finished(more.strip_prefix("vqa ").unwrap());
    assert_eq!((said.as_str(), epochs(&at.join("run")).len()), ("finished: 3 epochs", 3));
    // A step that changes nothing never improves a score.
    let still = "train --config config.toml --set out_dir=still --set train.optim.lr=1e-30 --set train.patience=1";
    let (said, more) = finished(&format!("{still} --set train.n_epochs=9"));
    assert_eq!(said, "finished: 2 epochs (train.patience = 1)");
    assert!(more.ends_with("--resume --set train.patience=0"), "{more}");
    // It may be exhausted by the last epoch.
    let (said, more) = finished(&still.replace("out_dir=still", "out_dir=last"));
    assert_eq!(said, "finished: 2 epochs (train.patience = 1)");
    assert!(more.ends_with("--resume --set train.patience=0 --set train.n_epochs=3"), "{more}");
    let (said, _) = finished(more.strip_prefix("vqa ").unwrap());
    assert_eq!(said, "finished: 3 epochs");
}

#[test]
fn train_and_val_together() {
    let world = world();
    let at = world.path();
    let config = at.join("config.toml");
    edit(&config, "[[data.val.composition]]", "[[data.train.composition]]");
    let output = vqa(at, "train --config config.toml").output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("nothing is validated").count(), 1, "{said}");
    let of_epochs = epochs(&at.join("run"));
    assert_eq!((of_epochs.len(), &of_epochs[1]["val_score"]), (2, &Value::Null));
    let svg = fs::read_to_string(at.join("run/curves.svg")).unwrap();
    assert!(svg.contains("train ") && !svg.contains("upper bound"));
    let evaluated = json(&ok(at, "evaluate --checkpoint run/model_2.safetensors --data train --json"));
    let n: u64 = ["train", "val"]
        .iter()
        .map(|name| {
            let file = at.join(format!("data/v2_OpenEnded_shapes_{name}_questions.json"));
            json(&fs::read_to_string(file).unwrap())["questions"].as_array().unwrap().len() as u64
        })
        .sum();
    assert_eq!(evaluated["n_questions"], n);
}
