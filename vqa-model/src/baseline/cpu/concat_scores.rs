//! Attention scores from one layer over [region; question], forward and backward.
//!
//! The layer's product with [region; question] is the sum of two products: one for each image's regions, one for each
//! text.

use tch::{Kind, Tensor};

use crate::baseline::cpu::attention_inputs::{AttentionInputs, per_region, scale};
use crate::baseline::cpu::gradients::add_grad;
use crate::baseline::cpu::joint_vectors;
use crate::baseline::cpu::joint_vectors::JointVectors;
use crate::baseline::cpu::linear::{Linear, add_weight_grad, only_layer};
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::sums::column_sums;
use crate::baseline::topdown_attention::ConcatAttention;
use crate::cpu::slice::{Number, values};
use crate::model::DropoutSeed;

/// A forward pass of the scores, with what its backward pass needs. Tensors are of type `T` unless another is named.
pub(super) struct ConcatScores<'a, T> {
    layer: &'a ConcatAttention,
    v_share: Tensor, // [N, K, A], without the bias
    q_part: Linear<'a, T>,
    q_share: Tensor,             // [B, A] float32, with the bias
    masks: Option<DropoutMasks>, // of [B K, A]
}

impl<'a, T: Number> ConcatScores<'a, T> {
    /// The part of the layer that reads regions.
    pub(super) fn v_part(layer: &'a ConcatAttention, feature_dim: i64) -> Linear<'a, T> {
        Linear::of_columns(only_layer(&layer.nonlinear), 0..feature_dim).without_bias()
    }

    /// Returns the scores, [B, K] float32, and the pass.
    pub(super) fn forward(
        layer: &'a ConcatAttention,
        inputs: &AttentionInputs,
        encoded: Option<&Tensor>,
        seed: Option<DropoutSeed>,
    ) -> (Tensor, ConcatScores<'a, T>) {
        let (feature_dim, question_dim) = (inputs.features.size()[2], inputs.question.size()[1]);
        let q_part = Linear::of_columns(only_layer(&layer.nonlinear), feature_dim..feature_dim + question_dim);
        let q_share = q_part.forward(inputs.question).to_kind(Kind::Float); // [L, A]
        let q_share = inputs.texts.per_question(&q_share); // [B, A]
        let v_share = match encoded {
            Some(encoded) => encoded.contiguous(),
            None => per_region(inputs.features, |regions| Self::v_part(layer, feature_dim).forward(regions)),
        }; // [N, K, A]
        let masks = inputs.masks(seed, q_share.size()[1] as usize, layer.dropout);
        let weights = layer.linear.weight() * scale(masks.as_ref()); // [1, A]

        let pass = ConcatScores { layer, v_share, q_part, q_share, masks };
        let (vectors, weights) = (pass.vectors(), values::<f32>(&weights));
        let scores = inputs.images.scores(|pair| joint_vectors::dot(vectors.of(pair), weights));
        (scores + &layer.linear.bias, pass)
    }

    /// Adds to the gradients of the parameters, given the gradient of the scores, [B, K] float32. Returns the gradient
    /// of the texts' hidden states, [L, H].
    pub(super) fn backward(&self, inputs: &AttentionInputs, grad_scores: &Tensor) -> Tensor {
        let AttentionInputs { images, features, texts, question } = inputs;
        let ConcatScores { layer, q_part, masks, .. } = self;
        add_grad(&layer.linear.bias, &grad_scores.sum(Kind::Float));

        let weight = layer.linear.weight() * scale(masks.as_ref()); // [1, A]
        let (vectors, weights) = (self.vectors(), values::<f32>(&weight));
        let (dim, grad_scores) = (vectors.dim, values::<f32>(grad_scores));
        let grad_v = images.sums_over_questions::<T>(dim, |sum, pair| {
            joint_vectors::add_share_grad(sum, grad_scores[pair.index], weights, vectors.of(pair));
        }); // [N, K, A]
        let sums = images.sums_over_regions(2 * dim, |sum, pair| {
            let (sum, passed) = sum.split_at_mut(dim);
            joint_vectors::add_scaled(sum, passed, grad_scores[pair.index], vectors.of(pair));
        }); // [B, 2 A]
        let [sum, passed] = [0, dim as i64].map(|start| sums.narrow(1, start, dim as i64)); // [B, A]
        let grad_weights = sum.sum_dim_intlist(0, true, Kind::Float) * scale(masks.as_ref()); // [1, A]
        add_weight_grad::<f32>(&layer.linear, &grad_weights);

        let (grad_v, grad_q) = (grad_v.flatten(0, 1), texts.summed::<T>(&(passed * &weight))); // [N K, A], [L, A]
        let parts = [grad_v.tr().mm(&features.flatten(0, 1)), grad_q.tr().mm(question)]; // [A, D], [A, H]
        add_weight_grad::<T>(only_layer(&layer.nonlinear), &Tensor::cat(&parts, 1));
        add_grad(&only_layer(&layer.nonlinear).bias, &column_sums::<T>(&grad_q));
        q_part.input_grad(&grad_q)
    }

    fn vectors(&self) -> JointVectors<'_, T> {
        JointVectors::new(&self.v_share, &self.q_share, self.masks.as_ref())
    }
}
