//! Tests of the report that `vqa visualize` writes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{contents, fails, ok, stderr, trained, vqa};

const VISUALIZE: &str = "visualize --checkpoint run/model_2.safetensors --data val";

/// The directory of a report about `val`.
fn folder(at: &Path, out_dir: &str) -> PathBuf {
    at.join(out_dir).join("run_model_2_val_visualization")
}

/// The data that the page's script reads.
fn data(report: &Path) -> Value {
    let page = fs::read_to_string(report.join("index.html")).unwrap();
    let json = page.split("<script type=\"application/json\" id=\"data\">").nth(1).unwrap();
    serde_json::from_str(json.split("</script>").next().unwrap()).unwrap()
}

fn cards(report: &Path) -> Vec<Value> {
    data(report)["cards"].as_array().unwrap().clone()
}

/// The folder names of some cards.
fn names<'a>(cards: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    cards.into_iter().map(|card| card["folder"].as_str().unwrap().to_owned()).collect()
}

/// The folders in a report's directory.
fn folders(report: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(report).unwrap().map(|entry| entry.unwrap());
    let directories = entries.filter(|entry| entry.path().is_dir());
    directories.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Draws a report with these options, and returns the cards of the chosen questions.
fn draw(at: &Path, out_dir: &str, options: &str) -> Vec<Value> {
    ok(at, &format!("{VISUALIZE} --out-dir {out_dir} {options}"));
    let report = folder(at, out_dir);
    let cards = cards(&report);
    assert_eq!(names(&cards), folders(&report), "{options}");
    cards
}

fn annotations(at: &Path) -> Vec<Value> {
    let text = fs::read_to_string(at.join("data/v2_shapes_val_annotations.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["annotations"].as_array().unwrap().clone()
}

#[test]
fn cards_say_what_is_known_of_a_question() {
    let world = trained();
    let at = world.path();
    let all = draw(at, "maps", "--n 100000 --no-scores");
    let annotations = annotations(at);
    assert_eq!(all.len(), annotations.len());
    ok(at, "predict --checkpoint run/model_2.safetensors --data val --out top.jsonl --top 5");
    let top = fs::read_to_string(at.join("top.jsonl")).unwrap();
    let data = data(&folder(at, "maps"));
    for ((card, annotation), line) in all.iter().zip(&annotations).zip(top.lines()) {
        assert_eq!(card["folder"], annotation["question_id"].to_string());
        assert_eq!(
            [&card["answer_type"], &card["question_type"]],
            ["answer_type", "question_type"].map(|key| &annotation[key])
        );
        let top: Value = serde_json::from_str(line).unwrap();
        let top = top["answers"].as_array().unwrap();
        let best = card["best"].as_array().unwrap();
        assert_eq!((best.len(), &card["answer"]), (5, &best[0][0]));
        for (found, expected) in best.iter().zip(top) {
            assert_eq!(found[0], expected["answer"]);
            assert!((found[1].as_f64().unwrap() - expected["score"].as_f64().unwrap()).abs() < 1e-4);
        }
        let n_people: u64 = card["annotators"].as_array().unwrap().iter().map(|pair| pair[1].as_u64().unwrap()).sum();
        assert_eq!(n_people, 10);
        let weights: f64 = card["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).sum();
        assert!((weights - 1.0).abs() < 0.01, "{weights}");
        let picture = &data["pictures"][card["picture"].as_u64().unwrap() as usize];
        assert_eq!(picture["boxes"].as_array().unwrap().len(), card["weights"].as_array().unwrap().len());
        assert!(card["without_top"][0].is_string() && card["without_top"][1].is_f64());
    }
    assert_eq!(data["pictures"].as_array().unwrap().len(), 10, "each picture once");
    let without = draw(at, "maps", "--n 3 --no-scores --occlude off");
    assert!(without.iter().all(|card| card["without_top"].is_null()));
}

/// The head shows the scores that `evaluate` prints.
#[test]
fn the_head_is_about_the_whole_split() {
    let world = trained();
    let at = world.path();
    draw(at, "maps", "--n 2");
    let printed = ok(at, "evaluate --checkpoint run/model_2.safetensors --data val --blind --json");
    let evaluation: Value = serde_json::from_str(&printed).unwrap();
    let page = fs::read_to_string(folder(at, "maps").join("index.html")).unwrap();
    let head = page.split("<header>").nth(1).unwrap().split("</header>").next().unwrap();
    let percent = |value: &Value| format!("<strong>{:.1} %</strong>", value.as_f64().unwrap());
    for value in
        [&evaluation["accuracy"]["overall"], &evaluation["soft_score"], &evaluation["blind"]["accuracy"]["overall"]]
    {
        assert!(head.contains(&percent(value)), "{value}: {head}");
    }
    let ece = evaluation["calibration"]["ece"].as_f64().unwrap();
    assert!(head.contains(&format!("<strong>{ece:.1}</strong>")), "{head}");
    for name in ["yes/no", "number", "other"] {
        assert!(head.contains(&format!("<th scope=\"row\">{name}</th>")), "{name}: {head}");
    }
    assert!(head.contains("Most frequent confusions"));
    draw(at, "maps", "--n 2 --no-scores");
    let page = fs::read_to_string(folder(at, "maps").join("index.html")).unwrap();
    assert!(!page.contains("Official accuracy</span>") && !page.contains("Most frequent confusions"));
}

#[test]
fn questions_are_chosen() {
    let world = trained();
    let at = world.path();
    let all = draw(at, "all", "--n 100000 --no-scores");
    let chosen = |options: &str| names(&draw(at, "maps", &format!("--no-scores {options}")));
    let those = |is: &dyn Fn(&Value) -> bool| names(all.iter().filter(|card| is(card)));
    let first = |n: usize| names(&all[..n]);

    // A batch is 32 questions, as in training, not the 64 that answering uses internally.
    assert_eq!(chosen(""), first(32));
    assert_eq!(chosen("--n-batches 2 --batch-size 5"), first(10));
    assert_eq!(chosen("--n 7"), first(7));
    let score = |card: &Value| card["soft_score"].as_f64().unwrap();
    let (right, wrong) = (those(&|card| score(card) > 0.0), those(&|card| score(card) == 0.0));
    assert!(right.len() > 5 && wrong.len() > 5, "{} {}", right.len(), wrong.len());
    assert_eq!(chosen("--n 100000 --only right"), right);
    assert_eq!(chosen("--n 100000 --only wrong"), wrong);
    assert_eq!(chosen("--n 100000 --type number"), those(&|card| card["answer_type"] == "number"));
    let question_types: BTreeSet<&str> = all.iter().map(|card| card["question_type"].as_str().unwrap()).collect();
    let a_word = question_types.iter().find(|name| !name.contains(' '));
    if let Some(name) = a_word {
        let found = chosen(&format!("--n 100000 --type {name} --type number"));
        assert_eq!(found, those(&|card| card["question_type"] == **name || card["answer_type"] == "number"));
    }
    let ids: Vec<&str> = [40, 3, 50].map(|i| all[i]["folder"].as_str().unwrap()).to_vec();
    assert_eq!(chosen(&format!("--question-ids {}", ids.join(","))), ids.iter().map(|&id| id.to_owned()).collect());
    let random = chosen("--n 12 --sample random");
    assert!(random.len() == 12 && random != first(12));
    assert_eq!(chosen("--n 12 --sample random --seed 7"), random, "the run's seed is 7");
    assert!(chosen("--n 20 --sample random").is_superset(&random));
    assert_ne!(chosen("--n 12 --sample random --seed 8"), random);
    let both = chosen("--n 5 --sample random --only wrong --type number");
    assert!(both.is_subset(&wrong) && both.is_subset(&those(&|card| card["answer_type"] == "number")));
}

#[test]
fn what_cannot_be_chosen_is_explained() {
    let world = trained();
    let at = world.path();
    let visualize = format!("{VISUALIZE} --out-dir maps");
    let refused = |options: &str, words: &[&str]| fails(at, &format!("{visualize} {options}"), words);
    refused("--type numbers", &["split \"val\"", "\"numbers\"", "number", "yes/no", "how many"]);
    refused("--question-ids 999999", &["split \"val\"", "999999"]);
    refused("--n 5 --n-batches 2", &["--n"]);
    refused("--n 0", &["--n"]);
    refused("--n 5 --seed 7", &["--seed", "--sample random"]);
    refused("--style dots", &["dots"]);

    let test = "[[data.test.composition]]\nq_jsons = [\"data/v2_OpenEnded_shapes_val_questions.json\"]\n\
                features = \"val.h5\"\nimages = \"data/images/val/shapes_val_{image_id:012}.jpg\"\n";
    let config = fs::read_to_string(at.join("config.toml")).unwrap();
    fs::write(at.join("test.toml"), config.replace("[model]\n", &format!("{test}[model]\n"))).unwrap();
    let visualize =
        "visualize --checkpoint run/model_2.safetensors --config test.toml --data test --out-dir maps --n 3";
    for options in ["--only wrong", "--type number"] {
        fails(at, &format!("{visualize} {options}"), &["split \"test\"", "no annotations"]);
    }
    ok(at, visualize);
    let report = at.join("maps/run_model_2_test_visualization");
    let card = &cards(&report)[0];
    assert!(card["soft_score"].is_null() && card["annotators"] == json!([]) && card["without_top"].is_array());
    assert!(fs::read_to_string(report.join("index.html")).unwrap().contains("No scores are shown"));
}

#[test]
fn an_earlier_report_makes_room_and_other_files_stay() {
    let world = trained();
    let at = world.path();
    let earlier = draw(at, "maps", "--n 8 --no-scores");
    let report = folder(at, "maps");
    let kept = "mine/original.jpg notes.txt 99999999/qa.txt";
    for name in kept.split(' ') {
        fs::create_dir_all(report.join(name).parent().unwrap()).unwrap();
        fs::write(report.join(name), "mine").unwrap();
    }
    let noted = earlier[7]["folder"].as_str().unwrap();
    fs::write(report.join(noted).join("why.txt"), "mine").unwrap();
    ok(at, &format!("{VISUALIZE} --out-dir maps --n 3 --no-scores"));
    let mut expected = names(&earlier[..3]);
    expected.extend(["mine", "99999999", noted].map(str::to_owned));
    assert_eq!(folders(&report), expected);
    assert!(kept.split(' ').all(|name| fs::read(report.join(name)).unwrap() == b"mine"));
    let left: Vec<PathBuf> = contents(&report.join(noted)).into_keys().collect();
    assert_eq!(left, [report.join(noted).join("why.txt")]);
}

#[test]
fn missing_and_broken_pictures_are_left_out() {
    let world = trained();
    let at = world.path();
    let all = draw(at, "maps", "--n 100000 --no-scores");
    let picture = |id: u64| at.join(format!("data/images/val/shapes_val_{id:012}.jpg"));
    fs::remove_file(picture(51)).unwrap();
    let bytes = fs::read(picture(53)).unwrap();
    fs::write(picture(53), &bytes[..bytes.len() / 2]).unwrap();
    let output = vqa(at, &format!("{VISUALIZE} --out-dir maps --n 100000 --no-scores")).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("left out: question ") && said.contains("000000000051.jpg: no such file"), "{said}");
    let text = fs::read_to_string(at.join("data/v2_OpenEnded_shapes_val_questions.json")).unwrap();
    let questions: Value = serde_json::from_str(&text).unwrap();
    let of_sound =
        questions["questions"].as_array().unwrap().iter().filter(|q| ![json!(51), json!(53)].contains(&q["image_id"]));
    let sound: BTreeSet<String> = of_sound.map(|question| question["question_id"].to_string()).collect();
    let report = folder(at, "maps");
    assert!(sound.len() < all.len());
    assert_eq!((names(&cards(&report)), folders(&report)), (sound.clone(), sound.clone()));
    let page = fs::read_to_string(report.join("index.html")).unwrap();
    let n_left_out = all.len() - sound.len();
    assert!(page.contains(&format!("{n_left_out} questions left out")), "{n_left_out}");
    assert!(page.contains("000000000051.jpg") && page.contains("000000000053.jpg") && page.contains("cut short"));

    // If no question is left, nothing is changed.
    fs::remove_dir_all(at.join("data/images/val")).unwrap();
    for out_dir in ["maps", "new"] {
        fails(at, &format!("{VISUALIZE} --out-dir {out_dir} --n 4 --no-scores"), &["no such file", "of 4 questions"]);
    }
    assert!(!at.join("new").exists());
}

#[test]
fn questions_may_have_any_text() {
    let world = trained();
    let at = world.path();
    let path = at.join("data/v2_OpenEnded_shapes_val_questions.json");
    let mut questions: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let hostile = "is this </script><script>alert('1')</script> \"red\" & <b>\\ or {{data}} <!-- ?";
    questions["questions"][0]["question"] = json!(hostile);
    fs::write(&path, questions.to_string()).unwrap();
    let cards = draw(at, "maps", "--n 2");
    assert_eq!(cards[0]["question"], hostile);
    let page = fs::read_to_string(folder(at, "maps").join("index.html")).unwrap();
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    let text =
        fs::read_to_string(folder(at, "maps").join(cards[0]["folder"].as_str().unwrap()).join("qa.txt")).unwrap();
    assert_eq!(text.lines().next().unwrap(), hostile);
}

#[test]
fn styles_differ_in_the_map_alone() {
    let world = trained();
    let at = world.path();
    let files = |options: &str| {
        let cards = draw(at, "maps", &format!("--n 2 --no-scores {options}"));
        let folder = folder(at, "maps").join(cards[0]["folder"].as_str().unwrap());
        ["qa.txt", "original.jpg", "topdown_att.jpg"].map(|name| fs::read(folder.join(name)).unwrap())
    };
    let [article, heat, boxes] = ["article", "heat", "boxes"].map(|style| files(&format!("--style {style}")));
    assert!(files("") == article, "it is the default");
    assert!(article[..2] == heat[..2] && article[..2] == boxes[..2]);
    assert!(article[2] != heat[2] && article[2] != boxes[2] && heat[2] != boxes[2]);
    let ranked = |report: &Path| cards(report)[0]["ranked"].as_array().map_or(0, Vec::len);
    assert_eq!(ranked(&folder(at, "maps")), 0);
    files("--style boxes");
    assert_eq!(ranked(&folder(at, "maps")), 10);
}

/// A report that is killed at any moment resumes: finished folders are not drawn again, and the result is the same as
/// without the kill.
#[cfg(unix)]
#[test]
fn a_killed_report_resumes() {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, Instant};

    let world = trained();
    let at = world.path();
    let whole = names(&draw(at, "whole", "--n 40"));
    let ledger = folder(at, "parts").join("report.jsonl");
    let finished = || -> BTreeSet<String> {
        let lines = fs::read_to_string(&ledger).unwrap_or_default();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["finished"].is_object())
            .map(|line| line["folder"].as_str().unwrap().to_owned())
            .collect()
    };
    let inode = |name: &str| fs::metadata(folder(at, "parts").join(name).join("topdown_att.jpg")).unwrap().ino();
    let draw = format!("{VISUALIZE} --out-dir parts --n 40");
    let mut before = BTreeSet::new();
    for n_more in [5, 12] {
        let mut child = vqa(at, &draw).env("RAYON_NUM_THREADS", "1").spawn().unwrap();
        let started = Instant::now();
        while finished().len() < n_more && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let now = finished();
        assert!(now.len() >= n_more && now.len() < 40 && now.is_superset(&before), "{}", now.len());
        before = now;
    }
    // One folder is missing, another lacks a picture, and a write was cut short.
    let mut lost: Vec<&String> = before.iter().collect();
    fs::remove_dir_all(folder(at, "parts").join(lost.pop().unwrap())).unwrap();
    fs::remove_file(folder(at, "parts").join(lost.pop().unwrap()).join("original.jpg")).unwrap();
    fs::write(folder(at, "parts").join(lost[0]).join(".qa.txt.Ab12cd.tmp"), "hal").unwrap();
    let inodes: Vec<u64> = lost.iter().map(|name| inode(name)).collect();
    let said = ok(at, &draw);
    assert!(said.contains(&format!("drew 40 questions ({} as they were)", lost.len())), "{said}");
    assert_eq!(lost.iter().map(|name| inode(name)).collect::<Vec<_>>(), inodes);
    fs::remove_file(folder(at, "parts").join(lost[0]).join(".qa.txt.Ab12cd.tmp")).unwrap();

    assert_eq!(folders(&folder(at, "parts")), whole);
    let files = |out_dir: &str| {
        let report = folder(at, out_dir);
        let relative = |path: PathBuf| path.strip_prefix(&report).unwrap().to_owned();
        contents(&report).into_iter().map(|(path, bytes)| (relative(path), bytes)).collect::<Vec<_>>()
    };
    let (parts, whole) = (files("parts"), files("whole"));
    assert_eq!(
        parts.iter().map(|file| &file.0).collect::<Vec<_>>(),
        whole.iter().map(|file| &file.0).collect::<Vec<_>>()
    );
    for ((name, bytes), (_, expected)) in parts.iter().zip(&whole) {
        assert!(bytes == expected, "{} has other bytes", name.display());
    }
}
