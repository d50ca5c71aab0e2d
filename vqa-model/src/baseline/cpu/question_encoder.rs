//! The question encoder, forward and backward: word embedding and recurrent network.

use tch::{Kind, Tensor};

use crate::baseline::config::LanguageModelConfig;
use crate::baseline::cpu::cell::Cell;
use crate::baseline::cpu::gradients::grad_of;
use crate::baseline::cpu::kernels;
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::recurrent_layer::{LayerPass, RecurrentLayer, Steps};
use crate::baseline::cpu::slice::{Number, from_rows};
use crate::baseline::language_model::{QuestionEmbedding, WordEmbedding};

/// Whether this network is written out: one layer and one direction.
pub(super) fn serves(config: &LanguageModelConfig) -> bool {
    config.n_layers == 1 && !config.bidirectional
}

/// A forward pass of the encoder, whose cells are `C`, with what its backward pass needs. Tensors are of type `T`.
pub(super) struct EncoderPass<'a, T, C> {
    embedding: &'a WordEmbedding,
    layer: RecurrentLayer<'a, T, C>,
    prefixes: PrefixTree,
    words: Tensor,   // [words] ids
    vectors: Tensor, // [words, E], of the distinct words
    pass: LayerPass<T>,
}

impl<'a, T: Number, C: Cell> EncoderPass<'a, T, C> {
    /// The state after the last word of each of L distinct texts, [L, H], in the order of the tree's leaves, and the pass.
    pub(super) fn forward(
        embedding: &'a WordEmbedding,
        rnn: &'a QuestionEmbedding,
        prefixes: PrefixTree,
        train: bool,
    ) -> (Tensor, EncoderPass<'a, T, C>) {
        let [parameters] = rnn.weights.as_chunks().0 else { panic!("one layer, one direction") };
        let layer = RecurrentLayer::new(parameters);
        let words = Tensor::from_slice(prefixes.words());
        let vectors = embedding.weight.detach().index_select(0, &words).to_kind(T::KIND); // [words, E]
        let steps = Steps { tree: prefixes.tree(), rows: prefixes.tokens() };
        let pass = layer.forward(steps, &vectors, train);
        let (last, h) = (prefixes.tree().last_level(), layer.hid_dim());
        let states = &pass.states;
        let leaves = from_rows::<T>(&[last.len() as i64, h as i64], h, |text, into| {
            kernels::write_scaled(into, 1.0, &states.of(last.start + text)[..h])
        }); // [L, H]
        (leaves, EncoderPass { embedding, layer, prefixes, words, vectors, pass })
    }

    /// Adds to the gradients of the parameters, given those of the texts' states, [L, H] float32.
    pub(super) fn backward(self, grad_question: &Tensor) {
        let steps = Steps { tree: self.prefixes.tree(), rows: self.prefixes.tokens() };
        let grad_vectors = self.layer.backward(steps, &self.vectors, &self.pass, grad_question); // [words, E]
        let grad_vectors = grad_vectors.to_kind(Kind::Float);
        if let Ok(padding) = self.prefixes.words().binary_search(&self.embedding.padding) {
            let _ = grad_vectors.get(padding as i64).zero_();
        }
        let _ = grad_of(&self.embedding.weight).index_add_(0, &self.words, &grad_vectors);
    }
}
