//! Hints on stderr about results that might be overrated, and problems that `prepare` finds early.

use std::fs;

use serde_json::Value;

#[cfg(feature = "torch")]
use crate::common::prepared;
use crate::common::{fails, said, world};

/// Questions with three answers each, one of them without an `answer_id`.
#[test]
fn annotations_that_keep_the_accuracy_low() {
    let world = world();
    let at = world.path();
    let annotations = at.join("data/v2_shapes_val_annotations.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&annotations).unwrap()).unwrap();
    let list = json["annotations"].as_array_mut().unwrap();
    let n = list.len();
    for annotation in &mut list[..4] {
        let answers = annotation["answers"].as_array_mut().unwrap();
        answers.truncate(3);
        answers[1].as_object_mut().unwrap().remove("answer_id");
    }
    fs::write(&annotations, json.to_string()).unwrap();
    let few = format!("4 of {n} questions of val have fewer than four answers");
    let prepared = said(at, "prepare --config config.toml");
    assert_eq!(prepared.matches(&few).count(), 1, "{prepared}");
    assert_eq!(prepared.matches("fewer than four").count(), 1, "{prepared}");

    let questions = at.join("data/v2_OpenEnded_shapes_val_questions.json");
    let ids: Value = serde_json::from_slice(&fs::read(&questions).unwrap()).unwrap();
    let results: Vec<Value> = ids["questions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|question| serde_json::json!({"question_id": question["question_id"], "answer": "yes"}))
        .collect();
    fs::write(at.join("results.json"), Value::from(results).to_string()).unwrap();
    let files =
        "--questions data/v2_OpenEnded_shapes_val_questions.json --annotations data/v2_shapes_val_annotations.json";
    let scored = said(at, &format!("score {files} --results results.json"));
    assert!(
        scored.contains(&format!("4 of {n} questions of data/v2_shapes_val_annotations.json have fewer")),
        "{scored}"
    );
    assert_eq!(scored.matches("without an answer_id of their own").count(), 1, "{scored}");
    assert!(scored.contains(&format!("4 of {n} questions have answers without an answer_id")), "{scored}");

    #[cfg(feature = "torch")]
    {
        let trained = said(at, "train --config config.toml --set train.n_epochs=1");
        assert_eq!(trained.matches(&few).count(), 1, "{trained}");
        assert_eq!(trained.matches("fewer than four").count(), 1, "{trained}");
        let evaluated = said(at, "evaluate --checkpoint run --data val --blind");
        assert_eq!(evaluated.matches(&few).count(), 1, "{evaluated}");
        let visualize = "visualize --checkpoint run --data val --out-dir maps --n 1";
        let drawn = said(at, visualize);
        assert_eq!(drawn.matches(&few).count(), 1, "{drawn}");
        let drawn = said(at, &format!("{visualize} --no-scores"));
        assert!(!drawn.contains("fewer than four"), "{drawn}");
        assert_eq!(evaluated.matches("without an answer_id of their own").count(), 1, "{evaluated}");
    }
}

#[cfg(feature = "torch")]
#[test]
fn answers_to_a_part_of_a_split() {
    let world = prepared();
    let at = world.path();
    said(at, "train --config config.toml --set train.n_epochs=1 --set data.val.limit=10");
    let questions: Value =
        serde_json::from_slice(&fs::read(at.join("data/v2_OpenEnded_shapes_val_questions.json")).unwrap()).unwrap();
    let n = questions["questions"].as_array().unwrap().len();
    let predict = "predict --checkpoint run --out results.json --data";
    let predicted = said(at, &format!("{predict} val"));
    assert!(predicted.contains(&format!("10 of {n} questions")) && predicted.contains("data.val"), "{predicted}");
    assert!(!said(at, &format!("{predict} train")).contains(" of "));
}

#[test]
fn the_name_of_the_split_to_validate_on() {
    let world = world();
    let at = world.path();
    let config = fs::read_to_string(at.join("config.toml")).unwrap();
    fs::write(at.join("config.toml"), config.replace("[[data.val.", "[[data.validation.")).unwrap();
    let hint = "[data.validation] is not used for validation: call it [data.val]";
    let prepared = said(at, "prepare --config config.toml");
    assert_eq!(prepared.matches(hint).count(), 1, "{prepared}");
    #[cfg(feature = "torch")]
    {
        let trained = said(at, "train --config config.toml --set train.n_epochs=1");
        assert_eq!(trained.matches(hint).count(), 1, "{trained}");
    }
}

/// Problems that would otherwise show up only in training or drawing.
#[test]
fn prepare_looks_at_templates_and_features() {
    let world = world();
    let at = world.path();
    let prepare = "prepare --config config.toml --set data.val.composition.0";
    fails(
        at,
        &format!("{prepare}.images=a/image.jpg"),
        &["config.toml: data.val: ", "a/image.jpg\" does not contain the image id", "{image_id:012}"],
    );
    fails(at, &format!("{prepare}.features=nowhere.h5"), &["split \"val\"", "nowhere.h5", "no such file"]);
    fs::write(at.join("text.h5"), "text").unwrap();
    fails(at, &format!("{prepare}.features=text.h5"), &["split \"val\"", "text.h5", "not an HDF5 file"]);
    assert!(!at.join("words.json").exists());
}
