//! Agreement with the official evaluator, checked against a table of its results.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use vqa_data::evaluator::{Accuracy, blind_guesses, normalize_answer, official_accuracy};
use vqa_data::questions::{Annotations, Answer, NewAnnotation};

#[derive(Deserialize)]
struct Table {
    normalize: Vec<(String, String)>,
    accuracy: Vec<(String, Vec<String>, f64)>,
    overall: f64,
    #[serde(rename = "perQuestionType")]
    per_question_type: BTreeMap<String, f64>,
}

fn table() -> Table {
    serde_json::from_str(include_str!("data/official_evaluator.json")).unwrap()
}

#[test]
fn normalisation_agrees() {
    let table = table();
    assert!(table.normalize.len() > 400);
    for (answer, expected) in table.normalize {
        assert_eq!(normalize_answer(&answer), expected, "{answer:?}");
    }
}

#[derive(Deserialize)]
struct Characters {
    contexts: Vec<String>,
    block: u32,
    digests: BTreeMap<String, String>,
}

/// Every character of the planes that contain cased or numeric ones, in many contexts. The script says how to see the
/// official evaluator's results for the characters of a block.
#[test]
fn normalisation_agrees_on_every_character() {
    let Characters { contexts, block, digests } =
        serde_json::from_str(include_str!("data/official_characters.json")).unwrap();
    assert_eq!((contexts.len(), digests.len()), (16, 2 * 64));
    let different: Vec<&String> = digests
        .par_iter()
        .filter(|(first, digest)| {
            let first = u32::from_str_radix(first, 16).unwrap();
            let mut lines = String::new();
            for character in (first..first + block).filter_map(char::from_u32) {
                for context in &contexts {
                    lines.push_str(&normalize_answer(&context.replace('#', &character.to_string())));
                    lines.push('\n');
                }
            }
            let found: String = Sha256::digest(lines).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            found != **digest
        })
        .map(|(first, _)| first)
        .collect();
    assert!(different.is_empty(), "blocks that begin at {different:?}");
}

#[test]
fn accuracy_agrees() {
    let table = table();
    assert!(table.accuracy.len() > 300);
    for (answer, annotators, expected) in table.accuracy {
        let found = official_accuracy(&answer, &annotators);
        assert!((found - expected).abs() < 1e-12, "{answer:?} to {annotators:?}: {found}, officially {expected}");
    }
}

/// Over many questions, and over those of each type, with Python's rounding.
#[test]
fn percentages_agree() {
    let table = table();
    let mut annotations = Annotations::new();
    let mut answers = Vec::new();
    for (i, (answer, annotators, _)) in table.accuracy.iter().enumerate() {
        let new = NewAnnotation {
            question_id: i as u64,
            image_id: None,
            question_type: Some(&annotators[0]),
            answer_type: None,
            multiple_choice_answer: None,
        };
        annotations.push(new, annotators.iter().map(String::as_str));
        answers.push(Answer { question_id: i as u64, answer: answer.as_str().into() });
    }
    let accuracy = Accuracy::of(&answers, &annotations).unwrap();
    assert_eq!(accuracy.overall, table.overall);
    assert_eq!(accuracy.per_question_type, table.per_question_type);
    assert!(accuracy.per_question_type.len() > 10);
}

/// Question id, question type and answer type, multiple choice answer, annotators.
type Entry = (u64, (&'static str, &'static str), &'static str, [&'static str; 10]);

fn annotations(list: &[Entry]) -> Annotations {
    let mut annotations = Annotations::new();
    for (question_id, (question_type, answer_type), most, answers) in list {
        let new = NewAnnotation {
            question_id: *question_id,
            image_id: Some(1),
            question_type: Some(question_type),
            answer_type: Some(answer_type),
            multiple_choice_answer: Some(most),
        };
        annotations.push(new, answers.iter().copied());
    }
    annotations
}

fn answer(question_id: u64, answer: &str) -> Answer {
    Answer { question_id, answer: answer.into() }
}

#[test]
fn accuracies_are_grouped_and_rounded() {
    let yes = ["yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "no", "no"];
    let two = ["2"; 10];
    let list = [
        (1, ("is the", "yes/no"), "yes", yes),
        (2, ("is the", "yes/no"), "yes", yes),
        (3, ("how many", "number"), "2", two),
    ];
    let (annotations, seen) = (annotations(&list), annotations(&list[..2]));
    // "no" with two of ten: (8 x 2/3 + 2 x 1/3) / 10 = 0.6.
    let accuracy = Accuracy::of(&[answer(3, "2"), answer(1, "yes"), answer(2, "no")], &annotations).unwrap();
    assert_eq!(accuracy.overall, 86.67);
    assert_eq!(accuracy.per_answer_type["yes/no"], 80.0);
    assert_eq!(accuracy.per_question_type["how many"], 100.0);
    let json = serde_json::to_string(&accuracy).unwrap();
    assert!(json.starts_with(r#"{"overall":86.67,"perAnswerType":{"number":100.0,"#), "{json}");

    let error = |answers: &[Answer]| Accuracy::of(answers, &annotations).unwrap_err().to_string();
    assert!(
        error(&[answer(1, "x")])
            .contains("2 of 3 annotated questions have no answer in the results (question ids 2, 3)")
    );
    assert!(error(&[answer(1, "x"), answer(2, "x"), answer(3, "x"), answer(4, "x")]).contains("question ids 4"));
    assert!(error(&[answer(1, "x"), answer(1, "y"), answer(2, "x"), answer(3, "x")]).contains("more than one answer"));

    let blind = blind_guesses(&seen, &annotations);
    assert!(blind.iter().all(|guess| &*guess.answer == "yes"));
}
