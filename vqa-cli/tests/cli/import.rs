//! `vqa import` converts any dataset to VQA2.0's files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{contents, fails, ok, said};

/// Six questions about three of four pictures, in the format of people's own tables.
fn table(at: &Path) {
    fs::create_dir_all(at.join("photos/beach")).unwrap();
    for name in ["beach/a.jpg", "beach/b.jpg", "c.png", "lonely.jpg"] {
        fs::write(at.join("photos").join(name), "").unwrap();
    }
    let text = "Question;Answer;Image\n\
        What color is the boat?;Red;beach/a.jpg\n\
        Is it sunny?;Yes;a.jpg\n\
        How many people are there?;\"two\";b\n\
        What is on the table?;night_stand;c.png\n\
        What is on the table?;night_stand;c.png\n\
        What is this?;;c.png\n";
    fs::write(at.join("qa.csv"), text).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_table_becomes_vqa2_files() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    table(at);
    let report = ok(at, "import qa.csv --images photos --out data");
    for words in [
        "read qa.csv as CSV with semicolons",
        "5 questions, 3 pictures, 4 answers, 3 of which only one question has",
        "5 questions with one answer: written ten times",
        "1 row with the same picture, question and answers as an earlier one",
        "1 question without an answer: left out",
        "1 picture without a question, left out: lonely.jpg",
        "3 pictures without an id: numbered in order, see data/images.json",
        "questions were numbered in order",
        "min_answer_count = 1       4 answers   100.00 %  (in the config)",
        "min_answer_count = 3       0 answers     0.00 %",
        "vqa train --config data/config.toml",
    ] {
        assert!(report.contains(words), "\"{words}\" is wanted: {report}");
    }
    let out = at.join("data");
    assert_eq!(
        json(&out.join("images.json")),
        serde_json::json!({"1": "../photos/beach/a.jpg", "2": "../photos/beach/b.jpg", "3": "../photos/c.png"})
    );
    let questions = json(&out.join("train_questions.json"));
    assert_eq!(
        questions["questions"][2],
        serde_json::json!({"question_id": 3, "image_id": 2, "question": "How many people are there?"})
    );
    let annotations = json(&out.join("train_annotations.json"));
    let annotation = |i: usize, key: &str| annotations["annotations"][i][key].as_str().unwrap().to_owned();
    let types: Vec<_> = (0..4).map(|i| (annotation(i, "question_type"), annotation(i, "answer_type"))).collect();
    let types: Vec<_> = types.iter().map(|(question, answer)| (question.as_str(), answer.as_str())).collect();
    assert_eq!(
        types,
        [
            ("what color is the", "other"),
            ("is it", "yes/no"),
            ("how many people are", "number"),
            ("what is on the", "other")
        ]
    );
    assert_eq!(annotation(3, "multiple_choice_answer"), "night stand");
    assert_eq!(annotations["annotations"][0]["answers"].as_array().unwrap().len(), 10);

    // The other commands can read what was written, and the evaluator accepts the answers that a dictionary would have.
    let entries = annotations["annotations"].as_array().unwrap();
    let answer = |entry: &Value| {
        let (id, answer) = (&entry["question_id"], &entry["multiple_choice_answer"]);
        serde_json::json!({"question_id": id, "answer": answer})
    };
    let results: Vec<Value> = entries.iter().map(answer).collect();
    fs::write(at.join("results.json"), Value::from(results).to_string()).unwrap();
    let files = "--questions data/train_questions.json --annotations data/train_annotations.json";
    let score: Value = serde_json::from_str(&ok(at, &format!("score {files} --results results.json --json"))).unwrap();
    assert_eq!(score["overall"], 100.0);
    // The config is valid: only the features are missing.
    fails(at, "prepare --config data/config.toml", &["split \"train\"", "data/features.h5", "no such file"]);
}

#[test]
fn validation_pictures_are_not_trained_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::create_dir(at.join("photos")).unwrap();
    let mut text = "question,answer,image\n".to_owned();
    for picture in 1..=20 {
        fs::write(at.join(format!("photos/p_{picture}.jpg")), "").unwrap();
        (0..5).for_each(|i| text.push_str(&format!("what is {i}?,thing {i},p_{picture}.jpg\n")));
    }
    fs::write(at.join("qa.csv"), text).unwrap();
    let split = |name: &str| {
        let questions = json(&at.join(format!("data/{name}_questions.json")));
        let questions = questions["questions"].as_array().unwrap().clone();
        let images: BTreeSet<u64> = questions.iter().map(|question| question["image_id"].as_u64().unwrap()).collect();
        (questions.len(), images)
    };
    ok(at, "import qa.csv --images photos --out data --val 0.2");
    let ((n_train, train), (n_val, val)) = (split("train"), split("val"));
    assert_eq!((n_train, n_val, train.len(), val.len()), (80, 20, 16, 4));
    assert!(train.is_disjoint(&val) && train.union(&val).copied().eq(1..=20));
    let first = contents(&at.join("data"));
    // The same seed draws the same split again, another seed a different one, and nothing is replaced without --force.
    fails(
        at,
        "import qa.csv --images photos --out data --val 0.2",
        &["data/train_questions.json: already exists", "--force"],
    );
    ok(at, "import qa.csv --images photos --out data --val 0.2 --force");
    assert!(contents(&at.join("data")) == first);
    ok(at, "import qa.csv --images photos --out data --val 0.2 --seed 2 --force");
    assert_ne!(split("val").1, val);
    let report: Value = serde_json::from_str(&ok(
        at,
        "import qa.csv --images photos --out data --val 0.2 --val-by question --force --json",
    ))
    .unwrap();
    assert_eq!((split("train").0, split("val").0), (80, 20));
    assert!(split("val").1.len() > 4);
    assert_eq!(report["splits"]["val"]["n_questions"], 20);
    assert_eq!(report["files"][0]["form"], "CSV");
    assert_eq!(report["min_answer_count"], 9);
}

/// The config that is written names every key.
#[test]
fn the_config_has_every_key() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    table(at);
    ok(at, "import qa.csv --images photos --out data");
    let text = fs::read_to_string(at.join("data/config.toml")).unwrap();
    let keys = |text: &str| -> BTreeSet<String> {
        let key = |line: &str| {
            let line = line.trim_start_matches(['#', ' ']);
            line.split_once(" = ").map(|(key, _)| key.to_owned()).filter(|key| !key.contains(' '))
        };
        text.lines().filter_map(key).collect()
    };
    for key in [
        "seed",
        "device",
        "out_dir",
        "words",
        "answers",
        "min_answer_count",
        "count_answers",
        "max_question_len",
        "limit",
        "fraction",
        "q_jsons",
        "a_jsons",
        "features",
        "images",
        "hid_dim",
        "loss",
        "init",
        "word_emb_dim",
        "glove",
        "rnn_type",
        "n_layers",
        "bidirectional",
        "dropout",
        "type",
        "n_epochs",
        "batch_size",
        "val_freq",
        "precision",
        "sampler",
        "log_every",
        "checkpoint_every",
        "keep_last",
        "keep_best",
        "patience",
        "accumulate",
        "ema_decay",
        "features_on_device",
        "clip_grad",
        "max_grad_norm",
        "warmup_steps",
        "warmup_factor",
        "lr_steps",
        "lr_ratio",
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "weight_decay_of",
    ] {
        assert!(keys(&text).contains(key), "{key}: {text}");
    }
}

/// A value that would be lost is an error, or is found wherever it is.
#[test]
fn nothing_in_the_data_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    table(at);
    let import = |name: &str, text: &str| {
        fs::write(at.join(name), text).unwrap();
        format!("import {name} --images photos --out data --force")
    };
    let row = |more: &str| format!(r#"{{"image": "c.png", "question": "what is it?", "answer": "red"{more}}}"#);
    let splits = format!("[{}, {}, {}]", row(""), row(r#", "split": "val""#), row(r#", "split": "test-dev""#));
    let report = ok(at, &import("splits.json", &splits));
    for split in ["train", "val", "test"] {
        assert!(report.lines().any(|line| line.starts_with(&format!("  {split} "))), "{split}: {report}");
    }
    let unknown = import("unknown.csv", "image,question,answer,split\nc.png,what is it?,red,holdout\n");
    fails(at, &unknown, &["unknown.csv: line 2", "\"holdout\"", "train, val and test", "--columns split="]);
    let lists = format!(r#"{{"train": [{}], "info": [1], "val": [{}]}}"#, row(""), row(""));
    fails(at, &import("lists.json", &lists), &["lists.json", "\"train\" and \"val\"", "a file of its own"]);

    // As pandas writes columns with gaps in them.
    let ids = "image,image_id,question_id,question,answer\na.jpg,80.0,7.0,what is it?,\"['b', None]\"\n";
    let report = ok(at, &import("ids.csv", ids));
    assert!(!report.contains("numbered in order") && report.contains("1 question with one answer"), "{report}");
    assert_eq!(json(&at.join("data/train_questions.json"))["questions"][0]["question_id"], 7);
    assert_eq!(json(&at.join("data/images.json"))["80"], "../photos/beach/a.jpg");
    fails(at, "import ids.csv --images photos --out data --seed 2", &["required arguments"]);
    fails(at, "import ids.csv --images photos --out data --columns answer=answer,answer=image", &["twice"]);
}

/// Features and dictionaries of another numbering would be used without a word.
#[test]
fn leftovers_of_an_earlier_import_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    table(at);
    let import = |arguments: &str| said(at, &format!("import qa.csv --images photos --out data {arguments}"));
    assert_eq!(import("--val 0.5"), "");
    fs::write(at.join("data/features.h5"), "").unwrap();
    fs::write(at.join("data/words.json"), "[]").unwrap();
    let said = import("--force");
    for words in
        ["data: files of an earlier import", "features.h5 (extract it again", "words.json (", "val_questions.json ("]
    {
        assert!(said.contains(words), "\"{words}\" is wanted: {said}");
    }
    assert!(!said.contains("train_questions.json") && !said.contains("answers.json"), "{said}");
}

/// Answers on which annotators agree exclude each other; others do not.
#[test]
fn the_loss_suits_the_answers() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    table(at);
    let agreeing = |n: usize| vec!["red"; n];
    let disagreeing = |n: usize| [vec!["red"; n - 1], vec!["blue"]].concat();
    for (answers, loss) in [
        (agreeing(1), "softmax"),
        (agreeing(4), "softmax"),
        (disagreeing(4), "logistic"),
        (agreeing(10), "softmax"),
        (disagreeing(10), "logistic"),
        (disagreeing(12), "logistic"),
    ] {
        let row = serde_json::json!([{"image": "c.png", "question": "what color is it?", "answers": answers}]);
        fs::write(at.join("qa.json"), row.to_string()).unwrap();
        ok(at, "import qa.json --images photos --out data --force");
        let config = fs::read_to_string(at.join("data/config.toml")).unwrap();
        assert!(config.contains(&format!("loss = \"{loss}\"")), "{answers:?}: {config}");
    }
}

#[test]
fn parquet_brings_its_pictures_along() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vqa-data/tests/data/parquet");
    for name in ["validation-00000-of-00001.parquet", "train_gzip.parquet"] {
        fs::copy(fixtures.join(name), at.join(name)).unwrap();
    }
    let files = "train_gzip.parquet validation-00000-of-00001.parquet";
    let report = ok(at, &format!("import {files} --out data"));
    assert!(report.contains("4 questions, 2 pictures"), "{report}");
    let images = json(&at.join("data/images.json"));
    assert_eq!(images, serde_json::json!({"7": "images/7.png", "42": "images/COCO_val2014_000000000042.png"}));
    assert!(at.join("data/images/7.png").exists());
    fails(at, &format!("import {files} --out data"), &["already exists"]);
    ok(at, &format!("import {files} --out data --force"));

    // A length that the library asserts to be right.
    let mut damaged = fs::read(fixtures.join("names.parquet")).unwrap();
    damaged[12] = 0x32;
    fs::write(at.join("damaged.parquet"), damaged).unwrap();
    fails(at, "import damaged.parquet --out other", &["damaged.parquet: damaged Parquet", "fetch the file again"]);
}

#[test]
fn bad_data_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    table(at);
    let import = |file: &str| format!("import {file} --images photos --out data");
    fs::write(at.join("columns.csv"), "text,answer,image\na,b,c.png\n").unwrap();
    fails(
        at,
        &import("columns.csv"),
        &[
            "columns.csv: no question column: its columns are \"text\", \"answer\", \"image\"",
            "--columns question=NAME",
        ],
    );
    ok(at, "import columns.csv --images photos --out named --columns question=text");
    fails(
        at,
        "import columns.csv --images photos --out data --columns colour=text",
        &["a column is one of question, answer"],
    );
    fs::write(at.join("missing.csv"), "question,answer,image\nwhat?,b,c.png\nwhy?,b,d.png\n").unwrap();
    fails(
        at,
        &import("missing.csv"),
        &["missing.csv, line 3: picture \"d.png\" is not in photos; 1 of 2 questions", "--skip-bad"],
    );
    let report = ok(at, "import missing.csv --images photos --out skipped --skip-bad");
    assert!(report.contains("1 row skipped: missing.csv, line 3: no picture \"d.png\""), "{report}");
    fs::write(at.join("ragged.csv"), "question,answer,image\nwhat, then?,b,c.png\n").unwrap();
    fails(at, &import("ragged.csv"), &["ragged.csv: line 2: 4 fields, but the header has 3"]);
    fs::write(at.join("form.txt"), "some words\nand more\n").unwrap();
    fails(at, &import("form.txt"), &["form.txt: neither a table nor JSON", "Visual Genome", "Parquet"]);
    fs::write(at.join("answers.csv"), "question,image,reply\nwhat?,c.png,x\n").unwrap();
    fails(at, &import("answers.csv"), &["no question has an answer", "--columns answer=NAME"]);
    fails(at, "import qa.csv --out data", &["no pictures in these files", "--images DIR"]);
    fails(at, "import qa.csv --images nowhere --out data", &["nowhere", "no such file"]);
    fails(at, &format!("{} --val 1.5", import("qa.csv")), &["--val 1.5", "above 0 and below 1"]);
    fs::write(at.join("photos/c.jpg"), "").unwrap();
    fs::write(at.join("twins.csv"), "question,answer,image\nwhat?,b,c\n").unwrap();
    fails(at, &import("twins.csv"), &["\"c\" in the data matches both c.jpg and c.png"]);
}
