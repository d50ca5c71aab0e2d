//! The distinct texts of a batch's questions, so that each is read only once.

use tch::{Kind, Tensor};

use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::sums::add_rows;
use crate::cpu::kernels;
use crate::cpu::slice::{Number, from_padded_rows, values};

/// The L distinct texts of B questions.
pub(super) struct DistinctTexts {
    text_rows: Tensor,             // [B], each question's text
    questions_of: Vec<Vec<usize>>, // [L], the questions with each text
}

impl DistinctTexts {
    /// The texts that are the leaves of a prefix tree.
    pub(super) fn new(tree: &PrefixTree) -> DistinctTexts {
        let mut questions_of = vec![Vec::new(); tree.tree().last_level().len()];
        tree.leaves().iter().enumerate().for_each(|(question, &text)| questions_of[text as usize].push(question));
        DistinctTexts { text_rows: Tensor::from_slice(tree.leaves()), questions_of }
    }

    /// Maps [L, dim] to [B, dim]: for each question, the row of its text.
    pub(super) fn per_question(&self, texts: &Tensor) -> Tensor {
        texts.index_select(0, &self.text_rows)
    }

    /// Maps [B, dim] to [L, dim], [padded]: the rows of the questions, summed by text in float32. This is the backward
    /// pass of [`per_question`](DistinctTexts::per_question).
    ///
    /// [padded]: crate::cpu::slice::padded
    pub(super) fn summed<T: Number>(&self, questions: &Tensor) -> Tensor {
        let dim = questions.size()[1] as usize;
        let questions = questions.to_kind(Kind::Float);
        let (questions, questions_of) = (values::<f32>(&questions), &self.questions_of);
        from_padded_rows::<T>(questions_of.len(), dim, |text, into| {
            let (mut sum, of_text) = (vec![0f32; dim], &questions_of[text]);
            add_rows(&mut sum, 0..of_text.len(), &|sum, i| {
                kernels::add_scaled(sum, 1.0, &questions[of_text[i] * dim..][..dim]);
            });
            kernels::write_scaled(into, 1.0, &sum)
        })
    }
}
