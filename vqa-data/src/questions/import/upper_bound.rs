//! The highest score of a model that knows only frequent answers.

use serde::Serialize;

use crate::questions::annotations::Symbol;
use crate::questions::dictionary::soft_score;

/// The soft score of a model that always gives the best candidate, for one value of `dict.min_answer_count`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UpperBound {
    /// `dict.min_answer_count`.
    pub min_answer_count: usize,
    /// Number of answers that are the `multiple_choice_answer` of at least that many questions.
    pub n_candidates: usize,
    /// In percent, over all questions with answers.
    pub soft_score: f64,
}

/// The values of `dict.min_answer_count` that are tried. The last makes the smallest dictionary.
pub(super) const COUNTS: [usize; 3] = [1, 3, 9];

/// How many points the upper bound may fall for a smaller dictionary. Rare answers take parameters, and are hardly
/// learnt.
const WORTH: f64 = 1.0;

/// Counts, for each answer, the questions whose first choice it is.
#[derive(Debug, Default)]
pub(super) struct FirstChoiceCounts {
    /// Indexed by the answers' symbols.
    n_first: Vec<usize>,
}

impl FirstChoiceCounts {
    pub(super) fn new(n_answers: usize) -> FirstChoiceCounts {
        FirstChoiceCounts { n_first: vec![0; n_answers] }
    }

    pub(super) fn add(&mut self, first_choice: Symbol) {
        self.n_first[first_choice as usize] += 1;
    }

    /// Number of answers that are the first choice of some question, and of those that are the first choice of only
    /// one.
    pub(super) fn n_answers(&self) -> (usize, usize) {
        let of = |wanted: fn(usize) -> bool| self.n_first.iter().filter(|&&n| wanted(n)).count();
        (of(|n| n > 0), of(|n| n == 1))
    }

    /// The bounds for all of [`COUNTS`], given the ten answers to each question.
    pub(super) fn bounds<I: Iterator<Item = Symbol>>(&self, questions: impl Iterator<Item = I>) -> [UpperBound; 3] {
        let mut sums = [0.0; COUNTS.len()];
        let mut n = 0;
        let mut ten: Vec<Symbol> = Vec::new();
        for question in questions {
            n += 1;
            ten.clear();
            ten.extend(question);
            ten.sort_unstable();
            for (sum, count) in sums.iter_mut().zip(COUNTS) {
                let known = ten.chunk_by(|a, b| a == b).filter(|same| self.n_first[same[0] as usize] >= count);
                *sum += f64::from(known.map(|same| soft_score(same.len())).fold(0.0, f32::max));
            }
        }
        std::array::from_fn(|i| UpperBound {
            min_answer_count: COUNTS[i],
            n_candidates: self.n_first.iter().filter(|&&n| n >= COUNTS[i]).count(),
            soft_score: if n == 0 { 0.0 } else { 100.0 * sums[i] / f64::from(n) },
        })
    }
}

/// Chooses the count to train with: the highest that costs at most [`WORTH`].
pub(super) fn choose(bounds: &[UpperBound; 3]) -> usize {
    let good_enough = bounds[0].soft_score - WORTH;
    let chosen = bounds.iter().rev().find(|bound| bound.n_candidates > 0 && bound.soft_score >= good_enough);
    chosen.map_or(COUNTS[0], |bound| bound.min_answer_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_dictionary_is_taken_where_it_is_worth_it() {
        // Answer 0 is given to nine questions, answer 1 to three, answer 2 to one; the last also has three of answer 0.
        let firsts = [vec![0; 9], vec![1; 3], vec![2]].concat();
        let mut counted = FirstChoiceCounts::new(3);
        firsts.iter().for_each(|&first| counted.add(first));
        let ten = |first: Symbol| {
            let answers = if first == 2 { [vec![2; 7], vec![0; 3]].concat() } else { vec![first; 10] };
            answers.into_iter()
        };
        let bounds = counted.bounds(firsts.iter().map(|&first| ten(first)));
        assert_eq!(bounds.map(|bound| bound.n_candidates), [3, 2, 1]);
        for (bound, wanted) in bounds.iter().zip([13.0, 12.9, 9.9]) {
            assert!((bound.soft_score - 100.0 * wanted / 13.0).abs() < 1e-4, "{bound:?}");
        }
        assert_eq!((counted.n_answers(), choose(&bounds)), ((3, 1), 3));
    }
}
