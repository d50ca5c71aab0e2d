//! Tests of the commands that run a trained model: finding checkpoints, ensembles, and scores.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{fails, ok, prepared, trained};

/// Visual Genome shares question ids with VQA2.0, so questions are scored and drawn by position, not by id.
#[test]
fn sources_may_share_question_ids() {
    let world = trained();
    let at = world.path();
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

    // A results file, though, has one answer for each id.
    let model = "--checkpoint run/model_2.safetensors --data val --config twice.toml";
    let shared = format!("split \"val\": its sources share {} question ids (", n(&once));
    for command in [format!("predict {model} --out r.json"), format!("evaluate {model} --results r.json")] {
        fails(at, &command, &["twice.toml", &shared, "make a split of each source"]);
    }
    ok(at, &format!("predict {model} --out top.jsonl --top 1"));
    assert_eq!(fs::read_to_string(at.join("top.jsonl")).unwrap().lines().count() as u64, n(&twice));

    // The first batch of 32 questions has no id twice; all questions together have each id twice.
    let visualize = "visualize --checkpoint run/model_2.safetensors --data val --config twice.toml --out-dir maps";
    ok(at, &format!("{visualize} --batch-size {} --n-batches 1", n(&twice)));
    let folder = at.join("maps/run_model_2_val_visualization");
    let folders = fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders as u64, n(&twice));
}

/// The directory of a run stands for its best checkpoint.
#[test]
fn a_checkpoint_is_found_by_its_run() {
    let world = prepared();
    let at = world.path();
    let said = ok(at, "train --config config.toml --set train.n_epochs=3");
    let best = said.lines().last().unwrap().strip_prefix("best: ").unwrap().split(',').next().unwrap();
    let evaluate = |checkpoint: &str| ok(at, &format!("evaluate --checkpoint {checkpoint} --data val"));
    assert_eq!(evaluate("run"), evaluate(best));
    fails(at, "evaluate --checkpoint data --data val", &["data: a directory without checkpoints"]);
}

/// The probabilities of all answers in a `predict --top` file, one line for each question.
fn probabilities(path: &Path) -> Vec<(u64, BTreeMap<String, f64>)> {
    let text = fs::read_to_string(path).unwrap();
    let of_line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let answers = line["answers"].as_array().unwrap();
        let scores: Vec<f64> = answers.iter().map(|answer| answer["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "best first: {line}");
        let names = answers.iter().map(|answer| answer["answer"].as_str().unwrap().to_owned());
        (line["question_id"].as_u64().unwrap(), names.zip(scores).collect())
    };
    text.lines().map(of_line).collect()
}

/// Inverts the probabilities to logits, whose mean an ensemble computes. Two epochs of one run form the ensemble here.
#[test]
fn an_ensemble_answers_by_the_mean_of_logits() {
    let world = prepared();
    let at = world.path();
    let n_answers = serde_json::from_slice::<Vec<String>>(&fs::read(at.join("answers.json")).unwrap()).unwrap().len();
    let questions = fs::read_to_string(at.join("data/v2_OpenEnded_shapes_val_questions.json")).unwrap();
    let n_questions = questions.matches("\"question_id\"").count();
    for loss in ["logistic", "softmax"] {
        ok(at, &format!("train --config config.toml --set model.loss={loss} --set out_dir={loss}"));
        let predict = |name: &str, options: &str, epochs: &[u64]| {
            let members = epochs.iter().map(|n| format!("--checkpoint {loss}/model_{n}.safetensors "));
            let members: String = members.collect();
            ok(at, &format!("predict {members}--data val --out {name}.json {options}"));
            at.join(format!("{name}.json"))
        };
        let top = |name, epochs: &[u64]| probabilities(&predict(name, "--top 1000000", epochs));
        let [first, second, both] = [top("first", &[1]), top("second", &[2]), top("both", &[1, 2])];
        assert!(first != second && both.len() == n_questions);
        for ((first, second), both) in first.iter().zip(&second).zip(&both) {
            assert!(first.0 == both.0 && second.0 == both.0 && both.1.len() == n_answers);
            let logit = |p: f64| if loss == "logistic" { (p / (1.0 - p)).ln() } else { p.ln() };
            let mean = |answer: &String| (logit(first.1[answer]) + logit(second.1[answer])) / 2.0;
            let sum: f64 = both.1.keys().map(|answer| mean(answer).exp()).sum();
            for (answer, &found) in &both.1 {
                let mean = mean(answer);
                let wanted = if loss == "logistic" { 1.0 / (1.0 + (-mean).exp()) } else { mean.exp() / sum };
                assert!((found - wanted).abs() < 1e-5, "{loss}, {answer}: {found}, and {wanted} is wanted");
            }
        }

        if loss == "softmax" {
            continue;
        }
        // An ensemble of copies equals the model alone, and its best answer is the one in the results file.
        let results = |name, epochs: &[u64]| fs::read(predict(name, "", epochs)).unwrap();
        let alone = results("alone", &[2]);
        assert_eq!(results("thrice", &[2, 2, 2]), alone);
        let alone: Value = serde_json::from_slice(&alone).unwrap();
        let best = fs::read_to_string(predict("best", "--top 1", &[2])).unwrap();
        for (line, result) in best.lines().zip(alone.as_array().unwrap()) {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["answers"].as_array().unwrap().len(), 1);
            assert_eq!(
                [&line["question_id"], &line["answers"][0]["answer"]],
                [&result["question_id"], &result["answer"]]
            );
        }

        // `evaluate` scores what `predict` writes.
        let members = format!("--checkpoint {loss}/model_1.safetensors --checkpoint {loss}/model_2.safetensors");
        let printed = ok(at, &format!("evaluate {members} --data val --json --blind --results scored.json"));
        let evaluation: Value = serde_json::from_str(&printed).unwrap();
        assert!(evaluation["blind"]["accuracy"]["overall"].is_f64());
        assert_eq!(fs::read(at.join("scored.json")).unwrap(), results("both", &[1, 2]));
        let score = ok(
            at,
            "score --questions data/v2_OpenEnded_shapes_val_questions.json --annotations \
             data/v2_shapes_val_annotations.json --results scored.json --json",
        );
        assert_eq!(serde_json::from_str::<Value>(&score).unwrap(), evaluation["accuracy"]);
    }
}

#[test]
fn members_of_an_ensemble_must_belong_together() {
    let world = prepared();
    let at = world.path();
    let train = |run: &str, settings: &str| {
        ok(at, &format!("train --config config.toml --set train.n_epochs=1 --set out_dir={run} {settings}"));
    };
    train("run", "");
    let refused = |other: &str, words: &[&str]| {
        let predict = "predict --checkpoint run/model_1.safetensors --data val --out r.json --checkpoint";
        let member = format!("{other}/model_1.safetensors: ");
        let words = [&[&*member, "with run/model_1.safetensors: "], words].concat();
        fails(at, &format!("{predict} {other}"), &words);
    };
    let copy = |run: &str, file: &str, change: fn(String) -> String| {
        fs::create_dir(at.join(run)).unwrap();
        for name in ["config.toml", "words.json", "answers.json", "model_1.safetensors"] {
            fs::copy(at.join("run").join(name), at.join(run).join(name)).unwrap();
        }
        let path = at.join(run).join(file);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    let swapped = |text: String| {
        let mut list: Vec<String> = serde_json::from_str(&text).unwrap();
        list.swap(1, 2);
        serde_json::to_string(&list).unwrap()
    };
    copy("words", "words.json", swapped);
    refused("words", &["different words in its dictionary, such as "]);
    copy("answers", "answers.json", swapped);
    refused("answers", &["different answers in its dictionary, such as "]);
    copy("longer", "config.toml", |text| text.replace("max_question_len = 14", "max_question_len = 15"));
    refused("longer", &["dict.max_question_len = 15 here, 14 there"]);
    copy("raw", "config.toml", |text| text.replace("\"normalized\"", "\"raw\""));
    refused("raw", &["dict.count_answers = raw here, normalized there"]);
    copy("softmax", "config.toml", |text| text.replace("\"logistic\"", "\"softmax\""));
    refused("softmax", &["model.loss = softmax here, logistic there"]);
    for (name, grid, words) in [
        ("grid", "2x2 --patch 4", "differs: grid, "),
        ("patch", "4x5 --patch 2", "values per region = 12 here, 48 there"),
    ] {
        for split in ["train", "val"] {
            let like = if split == "train" { format!("--grid {grid}") } else { format!("--like {name}_train.h5") };
            ok(at, &format!("features extract --images data/images/{split} --out {name}_{split}.h5 {like}"));
        }
        let features =
            ["train", "val"].map(|split| format!("--set data.{split}.composition.0.features={name}_{split}.h5"));
        train(name, &features.join(" "));
        refused(name, &[words]);
    }
}

/// Fails unless two values are equal up to rounding.
fn assert_close(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Object(of_a), Value::Object(of_b)) => {
            assert!(of_a.keys().eq(of_b.keys()), "{a} {b}");
            of_a.values().zip(of_b.values()).for_each(|(a, b)| assert_close(a, b));
        }
        _ => assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-5, "{a} {b}"),
    }
}

/// An evaluation reports on the same answers as `predict` gives.
#[test]
fn calibration_and_answers_without_regions() {
    let world = trained();
    let at = world.path();
    let model = "--checkpoint run/model_2.safetensors --data val";
    let evaluate = |options: &str| -> Value {
        serde_json::from_str(&ok(at, &format!("evaluate {model} --json {options}"))).unwrap()
    };
    let evaluation = evaluate("--occlude 3 --draws 2");
    let n = evaluation["n_questions"].as_u64().unwrap();

    ok(at, &format!("predict {model} --out best.json --top 1"));
    let best = probabilities(&at.join("best.json"));
    let confidence: f64 = best.iter().flat_map(|(_, answers)| answers.values()).sum();
    let bins = evaluation["calibration"]["bins"].as_array().unwrap();
    let sum = |key: &str| -> f64 {
        bins.iter().map(|bin| bin["n_questions"].as_f64().unwrap() * bin[key].as_f64().unwrap() / 100.0).sum()
    };
    assert_eq!(bins.iter().map(|bin| bin["n_questions"].as_u64().unwrap()).sum::<u64>(), n);
    assert!((sum("confidence") - confidence).abs() < 1e-3, "{confidence} {}", sum("confidence"));
    assert!((100.0 * sum("score") / n as f64 - evaluation["soft_score"].as_f64().unwrap()).abs() < 1e-3);
    let ece = evaluation["calibration"]["ece"].as_f64().unwrap();
    assert!((sum("confidence") - sum("score")).abs() * 100.0 / n as f64 <= ece + 1e-3, "{ece}");

    let occlusion = &evaluation["occlusion"];
    assert_eq!([&occlusion["n_regions"], &occlusion["n_draws"], &occlusion["n_left_out"]], [3, 2, 0]);
    assert_eq!(occlusion["overall"]["n_questions"], n);
    let of_types: u64 =
        occlusion["perAnswerType"].as_object().unwrap().values().map(|of| of["n_questions"].as_u64().unwrap()).sum();
    assert_eq!(of_types, n);
    for choice in ["attended", "chance"] {
        let changed = occlusion["overall"][choice]["changed"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&changed), "{occlusion}");
    }
    // Matrix products of fewer rows round differently.
    assert_close(&evaluate("--occlude 3 --draws 2 --batch-size 7")["occlusion"], occlusion);
    let text = ok(at, &format!("evaluate {model} --occlude 1 --checkpoint run/model_1.safetensors"));
    for words in ["without 1 region", "calibration: error ", "each checkpoint alone", "mean and standard deviation"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Each image has 21 regions.
    let refused = format!("evaluate {model} --occlude 21 --results results.json");
    fails(at, &refused, &["no image has more than 21 regions", "remove fewer"]);
}
