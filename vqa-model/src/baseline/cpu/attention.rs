//! Top-down attention, forward and backward, for either kind of scores.

use tch::{Kind, Tensor};

use crate::baseline::cpu::attention_inputs::{AttentionInputs, per_region};
use crate::baseline::cpu::concat_scores::ConcatScores;
use crate::baseline::cpu::product_scores::ProductScores;
use crate::baseline::cpu::question_images::QuestionImages;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::cpu::slice::Number;
use crate::model::{DropoutSeed, ModelInput};

/// Computes the part of the scores that depends on the images alone, [N, K, A], from their features, [N, K, D].
pub(super) fn encode_images<T: Number>(attention: &TopdownAttention, features: &Tensor) -> Tensor {
    let features = features.contiguous();
    match attention {
        TopdownAttention::Product(layer) => {
            per_region(&features, |regions| ProductScores::<T>::v_proj(layer).forward_relu(regions))
        }
        TopdownAttention::Concat(layer) => {
            let feature_dim = features.size()[2];
            per_region(&features, |regions| ConcatScores::<T>::v_part(layer, feature_dim).forward(regions))
        }
    }
}

/// A forward pass of attention, with what its backward pass needs. Tensors are of type `T` unless another is named.
pub(super) struct AttentionPass<'a, T> {
    images: QuestionImages,
    features: Tensor, // [N, K, D]
    scores: Scores<'a, T>,
    attention: Tensor, // [B, K] float32
}

enum Scores<'a, T> {
    Product(ProductScores<'a, T>),
    Concat(ConcatScores<'a, T>),
}

impl<'a, T: Number> AttentionPass<'a, T> {
    /// Returns the attention weights of the regions, [B, K] float32, the sums of the regions with these weights,
    /// [B, D], and the pass, from the texts' hidden states, [L, H], and the output of [`encode_images`] if it has been
    /// computed already. With a seed, dropout is on.
    pub(super) fn forward(
        layer: &'a TopdownAttention,
        input: &ModelInput,
        encoded: Option<&Tensor>,
        texts: &DistinctTexts,
        question: &Tensor,
        seed: Option<DropoutSeed>,
    ) -> (Tensor, Tensor, AttentionPass<'a, T>) {
        let features = input.features.contiguous();
        let [n, k, _] = features.size()[..] else { panic!("features are [N, K, D]") };
        let image_rows = Vec::try_from(input.image_rows.contiguous()).expect("a flat tensor of integers");
        let images = QuestionImages::new(image_rows, n as usize, k as usize);

        let inputs = AttentionInputs { images: &images, features: &features, texts, question };
        let (values, scores) = match layer {
            TopdownAttention::Product(layer) => {
                let (values, scores) = ProductScores::forward(layer, &inputs, encoded, seed);
                (values, Scores::Product(scores))
            }
            TopdownAttention::Concat(layer) => {
                let (values, scores) = ConcatScores::forward(layer, &inputs, encoded, seed);
                (values, Scores::Concat(scores))
            }
        }; // [B, K]
        let attention = input.attention(&values); // [B, K]
        let attended = images.weighted_sums::<T>(&features, &attention).to_kind(T::KIND); // [B, D]
        let returned = attention.shallow_clone();
        (returned, attended, AttentionPass { images, features, scores, attention })
    }

    /// Adds to the gradients of the parameters, given the gradient of the weighted sums, [B, D] float32. Returns the
    /// gradient of the texts' hidden states, [L, H] float32.
    pub(super) fn backward(self, texts: &DistinctTexts, question: &Tensor, grad_attended: &Tensor) -> Tensor {
        let AttentionPass { images, features, scores, attention } = &self;
        // Softmax is invariant to adding the same value to all of a question's scores, so that component of the
        // gradient is subtracted. This comes before anything is rounded again: as regions have much in common, it is by
        // far the largest component.
        let grad_attention = images.dots::<T>(features, grad_attended); // [B, K]
        let common = (&grad_attention * attention).sum_dim_intlist(1, true, Kind::Float); // [B, 1]
        let grad_scores = (grad_attention - common) * attention; // [B, K]

        let inputs = AttentionInputs { images, features, texts, question };
        let grad_question = match scores {
            Scores::Product(scores) => scores.backward(&inputs, &grad_scores),
            Scores::Concat(scores) => scores.backward(&inputs, &grad_scores),
        };
        grad_question.to_kind(Kind::Float)
    }
}
