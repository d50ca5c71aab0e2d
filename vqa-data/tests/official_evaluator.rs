//! Agreement with the official evaluator, from a table of what it answered.

use serde::Deserialize;
use vqa_data::{Accuracy, Annotation, AnnotatorAnswer, Answer, blind_guesses, normalize_answer, official_accuracy};

#[derive(Deserialize)]
struct Table {
    normalize: Vec<(String, String)>,
    accuracy: Vec<(String, Vec<String>, f64)>,
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

#[test]
fn accuracy_agrees() {
    let table = table();
    assert!(table.accuracy.len() > 300);
    for (answer, annotators, expected) in table.accuracy {
        let found = official_accuracy(&answer, &annotators);
        assert!((found - expected).abs() < 1e-12, "{answer:?} to {annotators:?}: {found}, officially {expected}");
    }
}

fn annotation(question_id: u64, types: (&str, &str), most: &str, annotators: [&str; 10]) -> Annotation {
    let answers = annotators.map(|answer| AnnotatorAnswer {
        answer: answer.to_owned(),
        answer_confidence: "yes".to_owned(),
        answer_id: 0,
    });
    Annotation {
        question_id,
        image_id: Some(1),
        question_type: types.0.to_owned(),
        answer_type: types.1.to_owned(),
        multiple_choice_answer: most.to_owned(),
        answers: answers.to_vec(),
    }
}

fn answer(question_id: u64, answer: &str) -> Answer {
    Answer { question_id, answer: answer.to_owned() }
}

#[test]
fn figures_are_grouped_and_rounded() {
    let yes = ["yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "no", "no"];
    let two = ["2"; 10];
    let annotations = [
        annotation(1, ("is the", "yes/no"), "yes", yes),
        annotation(2, ("is the", "yes/no"), "yes", yes),
        annotation(3, ("how many", "number"), "2", two),
    ];
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

    let blind = blind_guesses(&annotations[..2], &annotations);
    assert!(blind.iter().all(|guess| guess.answer == "yes"));
}
