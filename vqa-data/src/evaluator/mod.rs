//! The official evaluator of VQA2.0: [`normalize_answer`], and the [`Accuracy`] of a set of answers.

pub(crate) mod accuracy;
pub(crate) mod caveats;
pub(crate) mod normalize;

pub use self::{
    accuracy::{Accuracy, blind_guesses, official_accuracy},
    caveats::{warn_of_accuracy, warn_of_few_answers},
    normalize::normalize_answer,
};
