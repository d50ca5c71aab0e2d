//! The commands, in the order in which they are used.

use std::fs;

use crate::common::{epochs, ok, prepared, said, stderr, trained, vqa, world};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn from_pictures_to_attention_maps() {
    let world = world();
    let at = world.path();

    let summary = json(&ok(at, "features inspect train.h5 --json"));
    assert_eq!(summary["shape"], json("[50, 21, 48]"));
    assert_eq!(summary["n_not_finite"], 0);
    assert!(summary["mean"].as_f64().unwrap().abs() < 0.2, "standardised");
    assert!(ok(at, "features inspect val.h5").contains("[10, 21, 48], float32, contiguous, memory-mapped"));

    let prepared = json(&ok(at, "prepare --config config.toml --json"));
    assert_eq!(prepared["splits"]["train"]["n_images"], 50);
    assert_eq!(prepared["splits"]["val"]["n_cut"], 0);
    let words: Vec<String> = serde_json::from_slice(&fs::read(at.join("words.json")).unwrap()).unwrap();
    assert_eq!(prepared["n_words"], words.len());

    let trained = ok(at, "train --config config.toml");
    assert!(trained.contains("model_2.safetensors, val_score"), "{trained}");
    for file in ["config.toml", "words.json", "answers.json", "model_1.safetensors", "model_2.safetensors"] {
        assert!(at.join("run").join(file).exists(), "{file}");
    }
    let lines = fs::read_to_string(at.join("run/metrics.jsonl")).unwrap();
    let step = json(lines.lines().next().unwrap());
    for key in ["epoch", "step", "loss", "lr", "score", "samples_per_s", "data_ms", "forward_ms", "backward_ms"] {
        assert!(step[key].is_number(), "{key}: {step}");
    }
    assert_eq!((&step["kind"], &step["step"]), (&json("\"step\""), &json("5")));
    let of_epochs = epochs(&at.join("run"));
    assert_eq!(of_epochs.len(), 2);

    // The validation in training, `evaluate`, and `predict` with `score` agree.
    let model = "--checkpoint run/model_2.safetensors --data val";
    let evaluated = json(&ok(at, &format!("evaluate {model} --json --results results.json")));
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
    assert!(close(&evaluated["soft_score"], &of_epochs[1]["val_score"]), "{evaluated} {of_epochs:?}");
    assert!(close(&evaluated["upper_bound"], &of_epochs[1]["val_upper_bound"]));
    ok(at, &format!("predict {model} --out predicted.json --batch-size 7"));
    assert_eq!(fs::read(at.join("predicted.json")).unwrap(), fs::read(at.join("results.json")).unwrap());
    let files =
        "--questions data/v2_OpenEnded_shapes_val_questions.json --annotations data/v2_shapes_val_annotations.json";
    let scored = json(&ok(at, &format!("score {files} --results predicted.json --json")));
    assert_eq!(scored, evaluated["accuracy"]);
    assert!(scored["perAnswerType"]["yes/no"].is_number() && scored["perQuestionType"]["how many"].is_number());
    assert!(ok(at, &format!("evaluate {model}")).contains("by question type"));

    let drawn = ok(at, &format!("visualize {model} --n-batches 2 --batch-size 3 --out-dir maps"));
    let folder = at.join("maps/run_model_2_val_visualization");
    assert!(drawn.contains("drew 6 questions"), "{drawn}");
    let page = fs::read_to_string(folder.join("index.html")).unwrap();
    let questions = json(&fs::read_to_string(at.join("data/v2_OpenEnded_shapes_val_questions.json")).unwrap());
    for question in &questions["questions"].as_array().unwrap()[..6] {
        let of_question = folder.join(question["question_id"].to_string());
        let qa = fs::read_to_string(of_question.join("qa.txt")).unwrap();
        let lines: Vec<&str> = qa.lines().collect();
        assert_eq!(lines[0], question["question"].as_str().unwrap());
        assert!(lines[1].starts_with("gt: ") && lines[2].starts_with("answer: ") && lines.len() == 3);
        for picture in ["original.jpg", "topdown_att.jpg"] {
            assert!(fs::read(of_question.join(picture)).unwrap().starts_with(&[0xff, 0xd8]));
        }
        assert!(page.contains(&format!("\"folder\":\"{}\"", question["question_id"])));
    }
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let world = trained();
    let at = world.path();
    ok(at, "train --config config.toml --set out_dir=again");
    ok(at, "train --config config.toml --set out_dir=other --set seed=8");
    assert_eq!(epochs(&at.join("run")), epochs(&at.join("again")));
    assert_ne!(epochs(&at.join("run")), epochs(&at.join("other")));
    let bytes = |run: &str| fs::read(at.join(run).join("model_2.safetensors")).unwrap();
    assert!(bytes("run") == bytes("again"), "the checkpoints are the same, byte for byte");
}

/// Sums of float32 depend on the number of threads, at least in models whose layers are computed one by one.
#[test]
fn a_resumed_run_uses_as_many_threads_as_before() {
    let world = prepared();
    let at = world.path();
    let train = |out_dir: &str, rest: &str, n_threads: &str| {
        let sizes = "--set model.lm.n_layers=2 --set model.hid_dim=256 --set model.topdown_att.hid_dim=256";
        let arguments =
            format!("train --config config.toml {sizes} --set train.batch_size=64 --set out_dir={out_dir} {rest}");
        let output = vqa(at, &arguments).env("OMP_NUM_THREADS", n_threads).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    train("whole", "", "1");
    train("parts", "--set train.n_epochs=1", "1");
    let said = train("parts", "--resume", "2");
    assert!(said.contains("computing with 1 thread as before, not 2"), "{said}");
    let bytes = |run: &str| fs::read(at.join(run).join("model_2.safetensors")).unwrap();
    assert!(bytes("parts") == bytes("whole"), "the checkpoints are the same, byte for byte");
}

#[test]
fn a_run_keeps_its_dictionaries_and_can_be_moved() {
    let world = prepared();
    let at = world.path();
    ok(at, "train --config config.toml --set train.n_epochs=1");
    ok(at, "train --config config.toml --set out_dir=whole");
    // The dictionaries are prepared again, with fewer answers; the run is renamed, and its features are moved.
    ok(at, "prepare --config config.toml --set dict.min_answer_count=30");
    fs::rename(at.join("run"), at.join("renamed")).unwrap();
    let at_old_path = "train --config renamed/config.toml --resume";
    crate::common::fails(at, at_old_path, &["nothing saved in", "/run, ", "if it was moved", "out_dir=renamed"]);
    fs::create_dir(at.join("moved")).unwrap();
    fs::rename(at.join("val.h5"), at.join("moved/val.h5")).unwrap();
    let moved = "--set out_dir=renamed --set data.val.composition.0.features=moved/val.h5";
    ok(at, &format!("train --config config.toml {moved} --resume"));
    assert_eq!(epochs(&at.join("renamed")), epochs(&at.join("whole")));
    assert_eq!(fs::read(at.join("renamed/answers.json")).unwrap(), fs::read(at.join("whole/answers.json")).unwrap());
    // Without its state a run cannot resume, and is not overwritten either.
    fs::remove_dir_all(at.join("renamed/state")).unwrap();
    for resume in ["", "--resume"] {
        let train = format!("train --config config.toml {moved} --set train.n_epochs=3 {resume}");
        crate::common::fails(at, &train, &["renamed"]);
    }
}

/// A new run without dictionaries builds both, as `prepare` would, and never one to go with an existing other.
#[test]
fn a_new_run_makes_missing_dictionaries() {
    let world = world();
    let at = world.path();
    let train = "train --config config.toml --set train.n_epochs=1";
    let names = ["words.json", "answers.json"];
    let read = || names.map(|name| fs::read(at.join(name)).unwrap());
    let prepared = || {
        ok(at, "prepare --config config.toml");
        let prepared = read();
        names.iter().for_each(|name| fs::remove_file(at.join(name)).unwrap());
        prepared
    };
    let expected = prepared();

    // Nothing is left behind if a run cannot start, or is a dry run.
    crate::common::fails(at, &format!("{train} --resume"), &["words.json", "no such file", "without --resume"]);
    let pickle = format!("{train} --set dict.words=dictionary.pkl");
    crate::common::fails(at, &pickle, &["dictionary.pkl: no such file", "check the path"]);
    let high = format!("{train} --set dict.min_answer_count=100000");
    crate::common::fails(at, &high, &["config.toml: no answer is given at least 100000 times"]);
    let said = |arguments: &str| said(at, arguments);
    let made = "dictionaries: none yet, so built from train, val, as `vqa prepare` would: ";
    let tried = said(&format!("{train} --dry-run"));
    assert!(tried.contains(made) && !tried.contains("wrote"), "{tried}");
    assert!(names.iter().all(|name| !at.join(name).exists()) && !at.join("run").exists());

    let trained = said(train);
    assert!(trained.contains(made) && trained.contains("dictionaries: wrote "), "{trained}");
    assert_eq!(read(), expected);
    assert_eq!(names.map(|name| fs::read(at.join("run").join(name)).unwrap()), expected);
    // A resumed run has its own dictionaries.
    names.iter().for_each(|name| fs::remove_file(at.join(name)).unwrap());
    crate::common::fails(at, train, &["run: ", "saved after epoch 1"]);
    assert!(!said("train --config config.toml --resume").contains("dictionaries: "));
    assert!(names.iter().all(|name| !at.join(name).exists()));

    for (missing, there) in [(0, 1), (1, 0)] {
        fs::write(at.join(names[there]), &expected[there]).unwrap();
        let words = [names[missing], "no such file", names[there], "belong together", "vqa prepare"];
        crate::common::fails(at, &format!("{train} --set out_dir=other"), &words);
        fs::remove_file(at.join(names[there])).unwrap();
    }
}

/// Neither the data nor the other dictionary.
#[test]
fn dictionaries_replace_nothing_else() {
    let world = world();
    let at = world.path();
    let annotations = "data/v2_shapes_train_annotations.json";
    let before = fs::read(at.join(annotations)).unwrap();
    for (key, path) in [("dict.answers", annotations), ("dict.words", "train.h5")] {
        let prepare = format!("prepare --config config.toml --set {key}={path}");
        crate::common::fails(at, &prepare, &[path, "not a dictionary", "not replaced"]);
    }
    assert!(fs::read(at.join(annotations)).unwrap() == before);
    ok(at, "prepare --config config.toml");
    fs::write(at.join("answers.json"), "[]").unwrap();
    crate::common::fails(at, "train --config config.toml", &["answers.json: no answers in it", "vqa prepare"]);
    let same = "prepare --config config.toml --set dict.answers=words.json";
    crate::common::fails(at, same, &["config.toml: dict.words and dict.answers are the same file"]);
}

#[test]
fn a_split_without_annotations_is_predicted() {
    let world = world();
    let at = world.path();
    let test = "[[data.test.composition]]\nq_jsons = [\"data/v2_OpenEnded_shapes_val_questions.json\"]\nfeatures = \"val.h5\"\n";
    let config = fs::read_to_string(at.join("config.toml")).unwrap();
    fs::write(at.join("config.toml"), config.replace("[model]\n", &format!("{test}[model]\n"))).unwrap();
    ok(at, "prepare --config config.toml");
    ok(at, "train --config config.toml --set train.n_epochs=1 --set train.sampler=grouped --set model.loss=softmax");
    let model = "--checkpoint run/model_1.safetensors --data test";
    ok(at, &format!("predict {model} --out results.json"));
    let answers = json(&fs::read_to_string(at.join("results.json")).unwrap());
    assert!(answers.as_array().unwrap().iter().all(|a| a["question_id"].is_u64() && a["answer"].is_string()));
    crate::common::fails(at, &format!("evaluate {model}"), &["no annotations", "vqa predict"]);
    crate::common::fails(at, &format!("visualize {model} --out-dir maps"), &["where the pictures are", "images = "]);
}

#[test]
fn quick_runs_and_pretrained_vectors() {
    let world = prepared();
    let at = world.path();
    let vector = |word: &str, x: &str| format!("{word}{}\n", format!(" {x}").repeat(8));
    fs::write(at.join("glove.txt"), vector("what", "0.5") + &vector("nobody", "1") + &vector("is", "-0.25")).unwrap();
    let quick =
        "train --config config.toml --set train.n_epochs=1 --set data.train.limit=40 --set data.val.fraction=0.5";
    let output = crate::common::vqa(at, &format!("{quick} --set model.lm.glove=glove.txt")).output().unwrap();
    let said = crate::common::stderr(&output);
    assert!(output.status.success(), "{said}");
    let words: Vec<String> = serde_json::from_slice(&fs::read(at.join("words.json")).unwrap()).unwrap();
    assert!(said.contains(&format!("glove: vectors for 2 of {} words, none for ", words.len())), "{said}");
    let n_val = json(&ok(at, "prepare --config config.toml --json"))["splits"]["val"]["n_questions"].as_u64().unwrap();
    assert!(said.contains(&format!("train: 40 questions | val: {}", n_val.div_ceil(2))), "{said}");
    // The dictionaries cover all of the data; the report covers only the part that is used.
    let dictionaries = || [fs::read(at.join("words.json")).unwrap(), fs::read(at.join("answers.json")).unwrap()];
    let before = dictionaries();
    let cut = json(&ok(at, "prepare --config config.toml --json --set data.train.limit=7"));
    assert_eq!(
        (&cut["splits"]["train"]["n_questions"], &cut["splits"]["val"]["n_questions"]),
        (&json("7"), &json(&n_val.to_string()))
    );
    assert!(dictionaries() == before);
    // The run's config records all of these settings.
    let config = fs::read_to_string(at.join("run/config.toml")).unwrap();
    assert!(
        config.contains("limit = 40") && config.contains("fraction = 0.5") && config.contains("glove.txt"),
        "{config}"
    );
    let fails = crate::common::fails;
    fails(
        at,
        &format!("{quick} --set out_dir=x --set data.train.fraction=0.5"),
        &["data.train: it has both limit and fraction"],
    );
    fails(at, "prepare --config config.toml --set data.val.fraction=1.5", &["data.val: fraction = 1.5"]);
    fs::write(at.join("glove.txt"), "what 1 2\n").unwrap();
    let other = format!("{quick} --set out_dir=x --set model.lm.glove=glove.txt");
    fails(at, &other, &["glove.txt: its vectors have 2 values, but model.lm.word_emb_dim = 8"]);
}

/// A short demo: every step of it, and a model that is better than guessing blind.
#[test]
fn demo() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let printed = ok(at, "demo --images 400 --epochs 5");
    let overall = |title: &str| -> f64 {
        let line = printed.lines().find_map(|line| line.strip_prefix(title)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (blind, model) = (overall("best blind guess"), overall("trained model"));
    assert!((30.0..40.0).contains(&blind) && model > blind + 3.0, "{printed}");
    let page = fs::read_to_string(at.join("demo/maps/index.html")).unwrap();
    assert!(page.matches("\"folder\":").count() >= 30);
    // It replaces only its own files.
    fs::create_dir(at.join("demo/my_run")).unwrap();
    fs::write(at.join("demo/my_run/model_1.safetensors"), "").unwrap();
    ok(at, "demo --images 60 --epochs 1");
    assert!(at.join("demo/my_run/model_1.safetensors").exists());
    fs::create_dir(at.join("mine")).unwrap();
    fs::write(at.join("mine/thesis.tex"), "").unwrap();
    crate::common::fails(at, "demo --out-dir mine", &["mine", "not from an earlier demo"]);
}
