//! Top-down attention, forward and backward, whatever its scores.

use tch::{Kind, Tensor};

use crate::baseline::cpu::compared::{Compared, per_region};
use crate::baseline::cpu::concat_scores::ConcatScores;
use crate::baseline::cpu::product_scores::ProductScores;
use crate::baseline::cpu::question_images::QuestionImages;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::cpu::slice::Number;
use crate::model::{DropoutSeed, ModelInput};

/// What scores compute of the regions of images, [N, K, A], whatever is asked about them; from their features, [N, K, D].
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

/// A forward pass of attention, with what its backward pass needs. Tensors are of type `T` where no other is named.
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
    /// The weights of the regions, [B, K] float32, the sums of the regions by these weights, [B, D], and the
    /// pass; from the states of the texts, [L, H], and what [`encode_images`] has made, if it is there already. With a
    /// seed, dropout is on.
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

        let compared = Compared { images: &images, features: &features, texts, question };
        let (values, scores) = match layer {
            TopdownAttention::Product(layer) => {
                let (values, scores) = ProductScores::forward(layer, &compared, encoded, seed);
                (values, Scores::Product(scores))
            }
            TopdownAttention::Concat(layer) => {
                let (values, scores) = ConcatScores::forward(layer, &compared, encoded, seed);
                (values, Scores::Concat(scores))
            }
        }; // [B, K]
        let attention = input.attention(&values); // [B, K]
        let attended = images.weighted_sums::<T>(&features, &attention).to_kind(T::KIND); // [B, D]
        let returned = attention.shallow_clone();
        (returned, attended, AttentionPass { images, features, scores, attention })
    }

    /// Adds to the gradients of the parameters, given that of the weighted sums, [B, D] float32. Returns that
    /// of the texts' states, [L, H] float32.
    pub(super) fn backward(self, texts: &DistinctTexts, question: &Tensor, grad_attended: &Tensor) -> Tensor {
        let AttentionPass { images, features, scores, attention } = &self;
        // Softmax: adding the same to all scores of a question changes nothing, so that part of the gradient is
        // taken off. Before anything is rounded again: what regions have in common makes it by far the largest part.
        let grad_attention = images.dots::<T>(features, grad_attended); // [B, K]
        let common = (&grad_attention * attention).sum_dim_intlist(1, true, Kind::Float); // [B, 1]
        let grad_scores = (grad_attention - common) * attention; // [B, K]

        let compared = Compared { images, features, texts, question };
        let grad_question = match scores {
            Scores::Product(scores) => scores.backward(&compared, &grad_scores),
            Scores::Concat(scores) => scores.backward(&compared, &grad_scores),
        };
        grad_question.to_kind(Kind::Float)
    }
}
