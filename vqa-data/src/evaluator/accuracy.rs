//! The official evaluator's accuracy of a set of answers.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::evaluator::normalize::{clean, normalize_answer};
use crate::message::{counted, first_few};
use crate::questions::annotations::{Annotation, Annotations};
use crate::questions::json::Answer;

/// The official accuracy of an answer, 0 to 1: for each annotator min(1, matches among the others / 3), averaged.
/// Both sides are normalised only where the annotators disagree.
///
/// ```
/// use vqa_data::evaluator::official_accuracy;
/// let annotators = ["red", "red", "red", "Red.", "blue", "blue", "pink", "pink", "pink", "pink"];
/// // Four said "red" after normalisation. Whoever is left out, at least three of the others match.
/// assert_eq!(official_accuracy("red", &annotators), 1.0);
/// // Two said "blue": (8 x 2/3 + 2 x 1/3) / 10.
/// assert!((official_accuracy("blue", &annotators) - 0.6).abs() < 1e-12);
/// ```
pub fn official_accuracy<S: AsRef<str>>(answer: &str, annotators: &[S]) -> f64 {
    let forms: Vec<_> =
        annotators.iter().map(|given| (clean(given.as_ref()), normalize_answer(given.as_ref()))).collect();
    official_accuracy_of(answer, forms.iter().map(|(cleaned, normal)| (&**cleaned, &**normal)))
}

/// [`official_accuracy`], given each annotator's answer as [`clean`] leaves it and normalised.
pub(crate) fn official_accuracy_of<'a>(
    answer: &str,
    annotators: impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
) -> f64 {
    let answer = clean(answer);
    let n = annotators.len();
    let Some((first, _)) = annotators.clone().next() else { return 0.0 };
    let score = |n_matches_among_others: usize| (n_matches_among_others as f64 / 3.0).min(1.0);
    if annotators.clone().all(|(cleaned, _)| cleaned == first) {
        return if answer == first { score(n - 1) } else { 0.0 };
    }
    let answer = normalize_answer(&answer);
    let matches = annotators.map(|(_, normal)| normal == answer);
    let n_matches = matches.clone().filter(|&is_match| is_match).count();
    // Summed one by one, as the evaluator does: a product would differ in the last digit.
    matches.fold(0.0, |sum, is_match| sum + score(n_matches - usize::from(is_match))) / n as f64
}

/// The official accuracy in percent, rounded to two decimals as the evaluator does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accuracy {
    /// Over all questions.
    pub overall: f64,
    /// By "yes/no", "number" and "other".
    pub per_answer_type: BTreeMap<String, f64>,
    /// By the first words of the question.
    pub per_question_type: BTreeMap<String, f64>,
}

impl Accuracy {
    /// Scores answers, matched to the annotations by question id: exactly one for each annotation.
    ///
    /// # Errors
    ///
    /// When an annotated question has no answer, an answer has no annotated question, or a question has two answers.
    pub fn of(answers: &[Answer], annotations: &Annotations) -> Result<Accuracy> {
        let by_question: HashMap<u64, usize, FixedState> =
            answers.iter().enumerate().map(|(place, answer)| (answer.question_id, place)).collect();
        if by_question.len() < answers.len() {
            let message = format!(
                "the results have more than one answer to {}: give one answer per question",
                counted(answers.len() - by_question.len(), "question")
            );
            return Err(Error::Duplicate { paths: Vec::new(), message });
        }
        let mut missing: Vec<u64> = annotations
            .iter()
            .map(|annotation| annotation.question_id)
            .filter(|id| !by_question.contains_key(id))
            .collect();
        if !missing.is_empty() {
            let message = format!(
                "{} of {} annotated questions have no answer in the results (question ids {}): \
                 answer all of them, with `vqa predict` on the same split",
                missing.len(),
                annotations.len(),
                first_few(&mut missing)
            );
            return Err(Error::Mismatch { paths: Vec::new(), message });
        }
        if by_question.len() > annotations.len() {
            let known: HashMap<u64, ()> = annotations.iter().map(|annotation| (annotation.question_id, ())).collect();
            let mut extra: Vec<u64> = by_question.into_keys().filter(|id| !known.contains_key(id)).collect();
            let message = format!(
                "the results answer {} that have no annotation (question ids {}): do these files belong together?",
                counted(extra.len(), "question"),
                first_few(&mut extra)
            );
            return Err(Error::Mismatch { paths: Vec::new(), message });
        }
        // The index of each annotation's answer.
        let places = (0..annotations.len()).map(|i| by_question[&annotations.question_id(i)]).collect::<Vec<_>>();
        let of_annotations: Vec<&str> = places.iter().map(|&place| &*answers[place].answer).collect();
        let mut order: Vec<usize> = (0..annotations.len()).collect();
        order.sort_unstable_by_key(|&i| places[i]);
        Ok(Accuracy::mean(&scores(&of_annotations, annotations), &order, annotations))
    }

    /// Scores one answer for each annotation, in the order of the annotations. Question ids are ignored: two sources of
    /// a split may share some.
    ///
    /// # Panics
    ///
    /// When there are more or fewer answers than annotations.
    pub fn of_each<S: AsRef<str> + Sync>(answers: &[S], annotations: &Annotations) -> Accuracy {
        assert_eq!(answers.len(), annotations.len(), "one answer for each annotation");
        let in_order: Vec<usize> = (0..answers.len()).collect();
        Accuracy::mean(&scores(answers, annotations), &in_order, annotations)
    }

    /// Averages the annotations' scores, summed in the given order. The evaluator sums in the order of the results;
    /// another order may change the second decimal.
    fn mean(scores: &[f64], order: &[usize], annotations: &Annotations) -> Accuracy {
        let by_type = |name: for<'a> fn(&Annotation<'a>) -> &'a str| {
            let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
            for &i in order {
                let annotation = annotations.get(i).expect("an annotation for each score");
                let (sum, n) = sums.entry(name(&annotation)).or_default();
                *sum += scores[i];
                *n += 1;
            }
            sums.into_iter().map(|(name, (sum, n))| (name.to_owned(), percent(sum, n))).collect()
        };
        Accuracy {
            overall: percent(order.iter().map(|&i| scores[i]).sum(), scores.len()),
            per_answer_type: by_type(|annotation| annotation.answer_type),
            per_question_type: by_type(|annotation| annotation.question_type),
        }
    }
}

/// The score of each annotation's answer.
fn scores<S: AsRef<str> + Sync>(answers: &[S], annotations: &Annotations) -> Vec<f64> {
    // Most answers are one of a few thousand strings: each distinct one is cleaned and normalised once.
    let strings: Vec<&str> = annotations.strings().iter().collect();
    let forms: Vec<_> = strings.par_iter().map(|text| (clean(text), normalize_answer(text))).collect();
    (0..annotations.len())
        .into_par_iter()
        .with_min_len(1024)
        .map(|i| {
            let given = annotations.symbols(i).iter().map(|&symbol| &forms[symbol as usize]);
            official_accuracy_of(answers[i].as_ref(), given.map(|(cleaned, normal)| (&**cleaned, &**normal)))
        })
        .collect()
}

/// The evaluator's `round(100 * float(sum) / n, 2)`. Python rounds the exact value of the double, ties to even, as
/// Rust's formatting does; multiplying by 100 to round to a whole number would move it across a tie.
fn percent(sum: f64, n: usize) -> f64 {
    if n == 0 {
        return 0.0;
    }
    format!("{:.2}", 100.0 * sum / n as f64).parse().expect("a float that was just formatted")
}

/// Answers questions without looking at the images: each gets the answer that is most frequent for its question type in
/// `seen`, or the most frequent overall if the type does not occur there.
pub fn blind_guesses(seen: &Annotations, annotations: &Annotations) -> Vec<Answer> {
    /// Returns the most frequent answer; among ties, the last in the alphabet.
    fn most_frequent<'a>(answers: impl Iterator<Item = &'a str>) -> &'a str {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        answers.for_each(|answer| *counts.entry(answer).or_default() += 1);
        counts.into_iter().max_by_key(|&(_, n)| n).map_or("", |(answer, _)| answer)
    }
    let mut types: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for annotation in seen.iter() {
        types.entry(annotation.question_type).or_default().push(annotation.multiple_choice_answer);
    }
    let best: HashMap<&str, &str> =
        types.into_iter().map(|(name, answers)| (name, most_frequent(answers.into_iter()))).collect();
    let overall = most_frequent(seen.iter().map(|annotation| annotation.multiple_choice_answer));
    annotations
        .iter()
        .map(|annotation| Answer {
            question_id: annotation.question_id,
            answer: (*best.get(annotation.question_type).unwrap_or(&overall)).into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::annotations::NewAnnotation;

    /// Expected values from the official evaluator under Python 3.11, to the last bit: which annotators match
    /// determines the order in which thirds are added.
    #[test]
    fn an_accuracy_is_the_same_double() {
        for (matching, expected) in [
            (&[0, 1, 2][..], 0.9),
            (&[0, 1, 9], 0.8999999999999998),
            (&[7, 8], 0.5999999999999999),
            (&[3, 4], 0.6000000000000001),
            (&[3], 0.3),
            (&[0, 2, 5, 9], 1.0),
        ] {
            let annotators: Vec<&str> = (0..10).map(|i| if matching.contains(&i) { "x" } else { "y" }).collect();
            assert_eq!(official_accuracy("x", &annotators).to_bits(), f64::to_bits(expected), "{matching:?}");
        }
    }

    /// Expected values from Python 3.11: in the order of the results the mean is 54.38, in that of the annotations
    /// 54.37.
    #[test]
    fn scores_are_added_in_the_order_of_the_results() {
        let n_matches = [2, 0, 3, 1, 0, 2, 3, 3, 0, 0, 4, 4, 0, 3, 4, 2];
        let mut ids: Vec<u64> = (0..16).collect();
        let answers: Vec<Answer> = ids.iter().map(|&question_id| Answer { question_id, answer: "x".into() }).collect();
        ids.sort_by_key(|&id| n_matches[id as usize]);
        let mut annotations = Annotations::new();
        for question_id in ids {
            let n_matches = n_matches[question_id as usize];
            let new = NewAnnotation {
                question_id,
                image_id: None,
                question_type: None,
                answer_type: None,
                multiple_choice_answer: None,
            };
            annotations.push(new, (0..10).map(|i| if i < n_matches { "x" } else { "y" }));
        }
        let accuracy = Accuracy::of(&answers, &annotations).unwrap();
        assert_eq!((accuracy.overall, accuracy.per_answer_type["unknown"]), (54.38, 54.38));
        assert_eq!(Accuracy::of_each(&["x"; 16], &annotations).overall, 54.37);
    }

    /// Expected values from Python 3.11: `round(100 * float(sum) / n, 2)`. Many are ties, or next to one.
    #[test]
    fn percentages_are_rounded_as_python_rounds() {
        let cases = [
            (1.0, 800, 0.12),
            (3.0, 800, 0.38),
            (4.5, 400, 1.12),
            (1098.0, 1600, 68.62),
            (1306.8, 1600, 81.67),
            (1385.1000000000001, 2000, 69.25),
            (290.4, 640, 45.37),
            (47.4, 160, 29.62),
            (0.26755, 10, 2.68),
            (0.1005, 10, 1.01),
            (2.0, 3, 66.67),
            (140302.93333, 214354, 65.45),
            (0.0, 7, 0.0),
        ];
        for (sum, n, expected) in cases {
            assert_eq!(percent(sum, n), expected, "100 x {sum} / {n}");
        }
        assert_eq!(percent(0.0, 0), 0.0);
    }
}
