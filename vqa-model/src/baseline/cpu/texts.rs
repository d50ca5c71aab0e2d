//! Questions with the same text are read once.

use tch::{Device, Kind, Tensor};

use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::slice::Number;

/// The L distinct texts of B questions.
pub(super) struct DistinctTexts {
    text_rows: Tensor, // [B], each question's text
    n_texts: i64,
}

impl DistinctTexts {
    /// The leaves of a tree are the texts.
    pub(super) fn new(tree: &PrefixTree) -> DistinctTexts {
        let n_texts = tree.level(tree.n_levels() - 1).len() as i64;
        DistinctTexts { text_rows: Tensor::from_slice(tree.leaves()), n_texts }
    }

    /// [L, dim] to [B, dim]: for each question the row of its text.
    pub(super) fn per_question(&self, texts: &Tensor) -> Tensor {
        texts.index_select(0, &self.text_rows)
    }

    /// [B, dim] to [L, dim]: the rows of the questions, added up by text in float32. From a gradient of what
    /// [`per_question`](DistinctTexts::per_question) returned, this makes the gradient of what it was given.
    pub(super) fn summed<T: Number>(&self, questions: &Tensor) -> Tensor {
        let mut sums = Tensor::zeros([self.n_texts, questions.size()[1]], (Kind::Float, Device::Cpu));
        sums.index_add_(0, &self.text_rows, &questions.to_kind(Kind::Float)).to_kind(T::KIND)
    }
}
