//! The form of an answer by which candidates and annotators' answers are counted.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::evaluator::normalize::{normalize_answer, process};

/// How the answers of annotators become candidates and soft scores: `dict.count_answers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountAnswers {
    /// All answers are normalised as the official evaluator does, as in openvqa.
    #[default]
    Normalized,
    /// Answers are counted as by `tools/compute_softscore.py` of bottom-up-attention-vqa, for comparing with its
    /// scores: candidates are processed as the evaluator processes answers, and an annotator's answer counts only if it
    /// equals one of them as it was given.
    Raw,
}

impl CountAnswers {
    /// The candidate that a question's `multiple_choice_answer` stands for.
    pub(super) fn candidate(self, answer: &str) -> Cow<'_, str> {
        match self {
            CountAnswers::Normalized => normalize_answer(answer),
            // The script does not trim; its `replace(',', '')` finds no commas at this point.
            CountAnswers::Raw => process(answer).into(),
        }
    }

    /// The candidate that an annotator's answer counts for, if there is that candidate.
    pub(super) fn given(self, answer: &str) -> Cow<'_, str> {
        match self {
            CountAnswers::Normalized => normalize_answer(answer),
            CountAnswers::Raw => answer.into(),
        }
    }
}
