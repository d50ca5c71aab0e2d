//! A split as ids: tokens and soft targets.

use std::collections::HashSet;

use foldhash::fast::FixedState;
use rayon::prelude::*;
use serde::Serialize;

use crate::questions::dictionary::{AnswerDict, WordDict};
use crate::questions::soft_targets::SoftTargets;
use crate::questions::split::Split;

/// What a training run sees of a split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitReport {
    /// Number of questions.
    pub n_questions: usize,
    /// Number of distinct images.
    pub n_images: usize,
    /// Number of questions with more words than the limit.
    pub n_cut: usize,
    /// Number of words, within the limit, that the dictionary lacks, over all questions.
    pub n_unknown_words: usize,
    /// Number of questions for which no annotator gave a candidate answer. Their targets are all zero, and so is their
    /// score.
    pub n_without_answer: usize,
    /// The soft score, in percent, of a model that always gives the best candidate; `None` for a split without
    /// annotations.
    pub upper_bound: Option<f64>,
}

/// The questions of a split as tokens and soft targets.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedQuestions {
    /// [n_questions, max_len], padded in front.
    pub tokens: Vec<i64>,
    /// Number of tokens per question.
    pub max_len: usize,
    /// The soft targets; no candidates at all if the split has no annotations.
    pub targets: SoftTargets,
    pub(crate) n_cut: usize,
    pub(crate) n_unknown_words: usize,
}

impl EncodedQuestions {
    /// Encodes a split.
    pub fn new(split: &Split, words: &WordDict, answers: &AnswerDict, max_len: usize) -> EncodedQuestions {
        let mut tokens = vec![0; split.len() * max_len];
        let (n_cut, n_unknown_words) = tokens
            .par_chunks_mut(max_len)
            .zip(&split.questions)
            .map_init(String::new, |buffer, (tokens, question)| {
                let encoded = words.encode_with(&question.question, tokens, buffer);
                (usize::from(encoded.n_words > max_len), encoded.n_unknown)
            })
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let mut targets = answers.soft_targets(&split.annotations);
        targets.resize(split.len());
        EncodedQuestions { tokens, max_len, targets, n_cut, n_unknown_words }
    }

    /// Reports what a training run will see of `split`, the one that was encoded.
    pub fn report(&self, split: &Split) -> SplitReport {
        let n = split.len();
        let annotated = !split.annotations.is_empty();
        SplitReport {
            n_questions: n,
            n_images: {
                let ids = split.questions.iter().map(|question| question.image_id);
                ids.collect::<HashSet<_, FixedState>>().len()
            },
            n_cut: self.n_cut,
            n_unknown_words: self.n_unknown_words,
            n_without_answer: if annotated {
                (0..n).filter(|&i| self.targets.of(i).next().is_none()).count()
            } else {
                0
            },
            upper_bound: annotated.then(|| 100.0 * self.targets.total_best() / n as f64),
        }
    }
}
