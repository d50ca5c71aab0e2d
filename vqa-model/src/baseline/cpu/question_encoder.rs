//! What a written-out question encoder is.

use tch::Tensor;

use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::slice::Number;

/// Reads the L distinct questions of a prefix tree: word embedding and recurrent network, in the number type `T`.
pub(super) trait QuestionEncoder<T: Number> {
    /// What a forward pass keeps for the backward pass.
    type Saved;

    /// The state after the last word of each question, [L, H], in the order of the tree's leaves. Keeps all that
    /// [`backward`](QuestionEncoder::backward) needs only with `train`.
    fn forward(&self, tree: &PrefixTree, train: bool) -> (Tensor, Self::Saved);

    /// Adds to the gradients of the parameters, given those of the states, [L, H] float32.
    fn backward(&self, tree: &PrefixTree, saved: Self::Saved, grad_states: &Tensor);
}
