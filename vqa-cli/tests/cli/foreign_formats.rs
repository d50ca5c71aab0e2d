//! Files in the formats that other people's programs write, read by the full program.

use std::fs;
use std::path::Path;

use crate::common::{ok, world};

const QUESTIONS: &str = "data/v2_OpenEnded_shapes_val_questions.json";
const ANNOTATIONS: &str = "data/v2_shapes_val_annotations.json";

/// Compresses a file with `gzip`, keeping its name.
fn compress(path: &Path) {
    let status = std::process::Command::new("gzip").arg("-k").arg(path).status().unwrap();
    assert!(status.success());
    fs::rename(path.with_added_extension("gz"), path).unwrap();
}

#[test]
fn compressed_files_and_bare_lists() {
    let world = world();
    let at = world.path();
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(at.join(name)).unwrap()).unwrap() };
    let answer =
        |question: &serde_json::Value| serde_json::json!({"question_id": question["question_id"], "answer": "2"});
    let results: Vec<_> = json(QUESTIONS)["questions"].as_array().unwrap().iter().map(answer).collect();
    fs::write(at.join("results.json"), serde_json::Value::from(results).to_string()).unwrap();
    let score = format!("score --questions {QUESTIONS} --annotations {ANNOTATIONS} --results results.json --json");
    let (scored, words) = (ok(at, &score), || fs::read(at.join("words.json")).unwrap());
    ok(at, "prepare --config config.toml");
    let expected = words();

    fs::write(at.join(QUESTIONS), json(QUESTIONS)["questions"].to_string()).unwrap();
    fs::write(at.join(ANNOTATIONS), json(ANNOTATIONS)["annotations"].to_string()).unwrap();
    [QUESTIONS, ANNOTATIONS, "results.json"].iter().for_each(|name| compress(&at.join(name)));
    assert_eq!(ok(at, &score), scored);
    fs::remove_file(at.join("words.json")).unwrap();
    ok(at, "prepare --config config.toml");
    assert_eq!(words(), expected);
}

#[cfg(feature = "torch")]
mod training {
    use super::*;
    use crate::common::{fails, prepared};

    fn list(path: &Path) -> Vec<String> {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Lists and dicts in protocol 0, which is text: cPickle's default.
    fn pickled_list(items: &[String]) -> String {
        format!("(l{}", items.iter().map(|item| format!("V{item}\na")).collect::<String>())
    }

    fn pickled_ids(items: &[String]) -> String {
        format!("(d{}", items.iter().enumerate().map(|(id, item)| format!("V{item}\nI{id}\ns")).collect::<String>())
    }

    /// The ids are those in the pickles, not those that `prepare` would assign.
    #[test]
    fn dictionaries_of_the_original_repository() {
        let world = prepared();
        let at = world.path();
        let [mut words, mut answers] = ["words.json", "answers.json"].map(|name| list(&at.join(name)));
        words.reverse();
        answers.reverse();
        let dictionary = format!("(l{}a{}a.", pickled_ids(&words), pickled_list(&words));
        fs::write(at.join("dictionary.pkl"), &dictionary).unwrap();
        fs::write(at.join("trainval_label2ans.pkl"), format!("{}.", pickled_list(&answers))).unwrap();
        let dict = "--set dict.words=dictionary.pkl --set dict.answers=trainval_label2ans.pkl";
        ok(at, &format!("train --config config.toml --set train.n_epochs=1 {dict}"));
        assert_eq!((list(&at.join("run/words.json")), list(&at.join("run/answers.json"))), (words, answers));
        ok(at, "evaluate --checkpoint run --data val");
        let refused = ["dictionary.pkl", "a pickled dictionary", "dict.words"];
        fails(at, &format!("prepare --config config.toml {dict}"), &refused);
    }

    #[test]
    fn how_answers_are_counted_stays_with_a_run() {
        let world = world();
        let at = world.path();
        let train = "train --config config.toml --set train.n_epochs=1";
        ok(at, &format!("{train} --set dict.count_answers=raw"));
        assert!(fs::read_to_string(at.join("run/config.toml")).unwrap().contains("count_answers = \"raw\""));
        ok(at, "evaluate --checkpoint run --data val");
        let refused = ["--resume cannot change dict.count_answers = \"normalized\", was \"raw\""];
        fails(at, &format!("{train} --resume"), &refused);
        fails(at, &format!("{train} --set dict.count_answers=rough"), &["dict.count_answers=rough", "raw"]);
    }
}
