//! Selects the questions of a split to show.

use std::collections::{BTreeSet, HashMap, HashSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vqa_data::questions::Split;

/// A selection of the questions of a split, which keeps the split's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// The maximum number of questions; `None` for no limit.
    pub n: Option<usize>,
    /// Which of the matching questions are taken if there are more.
    pub sample: Sample,
    /// Only questions that the model answers with this verdict.
    pub only: Option<Verdict>,
    /// Only questions of these answer types or question types; if empty, of any type.
    pub types: Vec<String>,
    /// Only questions with these ids; if empty, with any id.
    pub question_ids: Vec<u64>,
}

/// Which questions are taken if more match than are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sample {
    /// The first in the split.
    #[default]
    First,
    /// A random sample with this seed. With the same seed, a larger sample contains the smaller ones.
    Random(u64),
}

/// How an answer is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The answer has a soft score above 0: at least one annotator gave it.
    Right,
    /// The answer has a soft score of 0.
    Wrong,
}

impl Choice {
    /// Whether the selection depends on the scores of the answers.
    pub fn needs_scores(&self) -> bool {
        self.only.is_some()
    }

    /// Returns the indices of the chosen questions in a split, in ascending order. `scores` are the soft scores of the
    /// model's answers, in the split's order; they are needed if [`Choice::needs_scores`].
    ///
    /// # Errors
    ///
    /// When a type or id does not occur, annotations are missing, or no question is left. For an unknown type the
    /// message lists those that occur.
    pub fn of(&self, split: &Split, scores: Option<&[f32]>) -> Result<Vec<usize>, String> {
        self.check(split)?;
        let ids: HashSet<u64> = self.question_ids.iter().copied().collect();
        let mut fit: Vec<usize> = (0..split.len())
            .filter(|&i| ids.is_empty() || ids.contains(&split.questions[i].question_id))
            .filter(|&i| self.types.is_empty() || self.is_of_types(split, i))
            .filter(|&i| match (self.only, scores) {
                (Some(verdict), Some(scores)) => (scores[i] > 0.0) == (verdict == Verdict::Right),
                _ => true,
            })
            .collect();
        if fit.is_empty() {
            let problem = match self.only {
                _ if split.is_empty() => "it has no questions",
                Some(Verdict::Wrong) => "none of the chosen questions is answered wrong: choose others",
                Some(Verdict::Right) => "none of the chosen questions is answered right: choose others",
                None => "no question has one of these types and one of these ids: choose others",
            };
            return Err(problem.to_owned());
        }
        let n = self.n.unwrap_or(fit.len()).min(fit.len());
        if let Sample::Random(seed) = self.sample {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for i in 0..n {
                let other = rng.random_range(i..fit.len());
                fit.swap(i, other);
            }
        }
        fit.truncate(n);
        fit.sort_unstable();
        Ok(fit)
    }

    /// Checks that a split has everything that the choice refers to, before anything is answered.
    ///
    /// # Errors
    ///
    /// Those of [`Choice::of`], except that no question is left.
    pub fn check(&self, split: &Split) -> Result<(), String> {
        if split.annotations.is_empty() && (self.only.is_some() || !self.types.is_empty()) {
            let what = if self.only.is_some() { "which answers are right" } else { "of which type a question is" };
            return Err(format!("no annotations, which say {what}: choose by id or at random, or add a_jsons"));
        }
        let known: HashSet<u64> = split.questions.iter().map(|question| question.question_id).collect();
        if let Some(id) = self.question_ids.iter().find(|id| !known.contains(id)) {
            return Err(format!("no question has the id {id}, among {} in the split: check the ids", split.len()));
        }
        let named = |name: for<'a> fn(&vqa_data::questions::Annotation<'a>) -> &'a str| -> BTreeSet<&str> {
            split.annotations.iter().map(|annotation| name(&annotation)).collect()
        };
        let (answer_types, question_types) = (named(|a| a.answer_type), named(|a| a.question_type));
        let is_known = |name: &str| answer_types.contains(name) || question_types.contains(name);
        if let Some(unknown) = self.types.iter().find(|name| !is_known(name)) {
            let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(format!(
                "no question is of the type \"{unknown}\". Answer types: {}. Question types: {}",
                list(answer_types),
                list(question_types)
            ));
        }
        Ok(())
    }

    fn is_of_types(&self, split: &Split, question: usize) -> bool {
        let is_of = |annotation: vqa_data::questions::Annotation| {
            self.types.iter().any(|name| name == annotation.answer_type || name == annotation.question_type)
        };
        split.annotations.get(question).is_some_and(is_of)
    }
}

/// Counts, for each of some questions, how many earlier questions of the split have the same id.
pub(crate) fn count_namesakes(split: &Split, questions: &[usize]) -> HashMap<usize, usize> {
    let ids: HashSet<u64> = questions.iter().map(|&question| split.questions[question].question_id).collect();
    let mut seen: HashMap<u64, usize> = HashMap::new();
    let mut counts = HashMap::new();
    for (i, question) in split.questions.iter().enumerate().filter(|(_, question)| ids.contains(&question.question_id))
    {
        let n = seen.entry(question.question_id).or_default();
        counts.insert(i, *n);
        *n += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use vqa_data::questions::{Annotations, NewAnnotation, Question};

    /// 100 questions with ids 0 to 99: every fourth is "how many" with answer type "number", the others are "is it"
    /// with "yes/no".
    fn split(annotated: bool) -> Split {
        let question = |i: u64| Question { question_id: i, image_id: i / 3, question: "?".into() };
        let mut annotations = Annotations::new();
        for i in (0..100).filter(|_| annotated) {
            let (question_type, answer_type) = if i % 4 == 0 { ("how many", "number") } else { ("is it", "yes/no") };
            let new = NewAnnotation {
                question_id: i,
                image_id: None,
                question_type: Some(question_type),
                answer_type: Some(answer_type),
                multiple_choice_answer: None,
            };
            annotations.push(new, ["1"]);
        }
        let questions = (0..100).map(question).collect();
        Split { questions, annotations, source_starts: vec![0, 100], ..Split::default() }
    }

    #[test]
    fn questions_are_chosen_by_type_id_and_verdict() {
        let split = split(true);
        let scores: Vec<f32> = (0..100).map(|i| if i % 3 == 0 { 0.3 } else { 0.0 }).collect();
        let choose = |choice: Choice| choice.of(&split, Some(&scores)).unwrap();
        assert_eq!(choose(Choice::default()), (0..100).collect::<Vec<_>>());
        assert_eq!(choose(Choice { n: Some(3), ..Choice::default() }), [0, 1, 2]);
        let types = vec!["how many".to_owned()];
        let numbers = choose(Choice { types: types.clone(), ..Choice::default() });
        assert_eq!(numbers, (0..100).step_by(4).collect::<Vec<_>>());
        let both = vec!["number".to_owned(), "yes/no".to_owned()];
        assert_eq!(choose(Choice { types: both, ..Choice::default() }).len(), 100);
        let wrong = choose(Choice { types, only: Some(Verdict::Wrong), ..Choice::default() });
        assert_eq!(wrong, (0..100).step_by(4).filter(|i| i % 3 != 0).collect::<Vec<_>>());
        let question_ids = vec![7, 3, 6];
        let right = Choice { question_ids, only: Some(Verdict::Right), ..Choice::default() };
        assert_eq!(choose(right), [3, 6]);
    }

    #[test]
    fn a_larger_sample_has_the_smaller_one_in_it() {
        let choose = |n, seed| Choice { n: Some(n), sample: Sample::Random(seed), ..Choice::default() };
        let draw = |n, seed| choose(n, seed).of(&split(false), None).unwrap();
        let (few, many) = (draw(10, 1), draw(30, 1));
        assert!(few.len() == 10 && many.len() == 30 && few.iter().all(|i| many.contains(i)));
        assert!(many.is_sorted() && draw(10, 1) == few && draw(10, 2) != few);
        assert_eq!(draw(1000, 1), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let refused = |choice: Choice, annotated| choice.of(&split(annotated), Some(&[0.0; 100])).unwrap_err();
        let types = vec!["how".to_owned()];
        let unknown = refused(Choice { types: types.clone(), ..Choice::default() }, true);
        assert!(
            unknown.contains("\"how\". Answer types: number, yes/no. Question types: how many, is it"),
            "{unknown}"
        );
        assert!(refused(Choice { question_ids: vec![5, 100], ..Choice::default() }, true).contains("the id 100"));
        assert!(refused(Choice { types, ..Choice::default() }, false).contains("no annotations"));
        let only = Choice { only: Some(Verdict::Right), ..Choice::default() };
        assert!(refused(only.clone(), false).contains("no annotations"));
        assert!(refused(only, true).contains("answered right"));
    }

    #[test]
    fn namesakes_are_counted_in_the_whole_split() {
        let mut split = split(false);
        split.questions[50].question_id = 7;
        split.questions[70].question_id = 7;
        let counts = count_namesakes(&split, &[49, 50, 70]);
        assert_eq!([49, 50, 70].map(|i| counts[&i]), [0, 1, 2]);
        assert_eq!(count_namesakes(&split, &[70])[&70], 2);
    }
}
