//! The scores of a full split, for the head of a page.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use vqa_data::evaluator::Accuracy;
use vqa_data::questions::{Annotation, Annotations};

use crate::calibration::Calibration;
use crate::predict::Answers;

/// How well a model answers a split, as the head of a page shows it. Scores are percentages.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// How many questions there are.
    pub n_questions: usize,
    /// The mean soft score.
    pub soft_score: f64,
    /// The official accuracy.
    pub accuracy: Accuracy,
    /// The soft score and the official accuracy when every question is asked about another image.
    pub blind: Option<(f64, Accuracy)>,
    /// The number of questions of each answer type.
    pub answer_types: BTreeMap<String, usize>,
    /// The number of questions of each question type.
    pub question_types: BTreeMap<String, usize>,
    /// Compares the probabilities of the answers with their scores.
    pub calibration: Calibration,
    /// How many answers have a soft score of 0.
    pub n_wrong: usize,
    /// The pairs of right and wrong answer that are confused most often, most frequent first.
    pub confusions: Vec<Confusion>,
}

/// A right answer and the wrong one that the model gives instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    /// The annotators' consensus, their `multiple_choice_answer`.
    pub truth: String,
    /// The model's answer.
    pub answer: String,
    /// The number of questions with this confusion.
    pub n_questions: usize,
}

/// How many pairs are listed.
const N_CONFUSIONS: usize = 10;

impl Scores {
    /// Computes the scores from a model's answers to a split, and those of `blind` from its answers about other images.
    ///
    /// # Panics
    ///
    /// When the number of annotations differs from that of the answers.
    pub fn of(answers: &Answers, blind: Option<&Answers>, annotations: &Annotations) -> Scores {
        let count = |name: for<'a> fn(&Annotation<'a>) -> &'a str| {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for annotation in annotations.iter() {
                match counts.get_mut(name(&annotation)) {
                    Some(n) => *n += 1,
                    None => drop(counts.insert(name(&annotation).to_owned(), 1)),
                }
            }
            counts
        };
        let mut pairs: HashMap<(&str, &str), usize> = HashMap::new();
        let answered = annotations.iter().zip(&answers.answers).zip(&answers.scores);
        for ((annotation, answer), _) in answered.filter(|&(_, &score)| score == 0.0) {
            *pairs.entry((annotation.multiple_choice_answer, &answer.answer)).or_default() += 1;
        }
        let n_wrong = pairs.values().sum();
        // An answer that equals the truth can also score 0, when the truth in its annotated form is not a candidate.
        let mut pairs: Vec<_> = pairs.into_iter().filter(|((truth, answer), _)| truth != answer).collect();
        pairs.sort_unstable_by_key(|&(pair, n)| (Reverse(n), pair));
        let confusion = |((truth, answer), n_questions): ((&str, &str), usize)| Confusion {
            truth: truth.to_owned(),
            answer: answer.to_owned(),
            n_questions,
        };
        Scores {
            n_questions: answers.answers.len(),
            soft_score: answers.soft_score,
            accuracy: answers.accuracy(annotations),
            blind: blind.map(|blind| (blind.soft_score, blind.accuracy(annotations))),
            answer_types: count(|annotation| annotation.answer_type),
            question_types: count(|annotation| annotation.question_type),
            calibration: answers.calibration(),
            n_wrong,
            confusions: pairs.into_iter().take(N_CONFUSIONS).map(confusion).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vqa_data::questions::{Answer, NewAnnotation};

    #[test]
    fn wrong_answers_are_counted_in_pairs() {
        let mut annotations = Annotations::new();
        let given = [("red", "blue"), ("red", "blue"), ("red", "red"), ("two", "three"), ("red", "pink")];
        for (i, (truth, _)) in given.iter().enumerate() {
            let new = NewAnnotation {
                question_id: i as u64,
                image_id: None,
                question_type: Some("what"),
                answer_type: Some(if *truth == "two" { "number" } else { "other" }),
                multiple_choice_answer: None,
            };
            annotations.push(new, [*truth; 10]);
        }
        let scores: Vec<f32> = given.iter().map(|(truth, answer)| if truth == answer { 1.0 } else { 0.0 }).collect();
        let answer =
            |(i, (_, answer)): (usize, &(&str, &str))| Answer { question_id: i as u64, answer: (*answer).into() };
        let answers = Answers {
            answers: given.iter().enumerate().map(answer).collect(),
            confidences: vec![0.5; 5],
            scores,
            soft_score: 20.0,
            upper_bound: 100.0,
        };
        let scores = Scores::of(&answers, None, &annotations);
        let pairs: Vec<_> =
            scores.confusions.iter().map(|pair| (&*pair.truth, &*pair.answer, pair.n_questions)).collect();
        assert_eq!(pairs, [("red", "blue", 2), ("red", "pink", 1), ("two", "three", 1)]);
        assert_eq!((scores.n_wrong, scores.accuracy.overall), (4, 20.0));
        assert_eq!(scores.answer_types, BTreeMap::from([("number".to_owned(), 1), ("other".to_owned(), 4)]));
    }
}
