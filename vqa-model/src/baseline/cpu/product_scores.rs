//! Attention scores from products, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::cpu::attention_inputs::{AttentionInputs, per_region, scale};
use crate::baseline::cpu::gradients::add_grad;
use crate::baseline::cpu::linear::{Linear, add_weight_grad, relu_backward};
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::topdown_attention::ProductAttention;
use crate::cpu::kernels;
use crate::cpu::slice::{Number, values};
use crate::model::DropoutSeed;

/// A forward pass of the scores, with what its backward pass needs. Tensors are of type `T` unless another is named.
pub(super) struct ProductScores<'a, T> {
    layer: &'a ProductAttention,
    /// `None` if the images were projected beforehand; then there is no backward pass.
    v_proj: Option<Linear<'a, T>>,
    v_projected: Tensor, // [N, K, A]
    q_proj: Linear<'a, T>,
    q_projected: Tensor,         // [L, A]
    masks: Option<DropoutMasks>, // of [B K, A]
    queries: Tensor,             // [B, A] float32, the questions' projections times the weights of the last layer
}

impl<'a, T: Number> ProductScores<'a, T> {
    /// The projection of regions.
    pub(super) fn v_proj(layer: &'a ProductAttention) -> Linear<'a, T> {
        Linear::only_layer(&layer.v_proj)
    }

    /// Returns the scores, [B, K] float32, and the pass.
    pub(super) fn forward(
        layer: &'a ProductAttention,
        inputs: &AttentionInputs,
        encoded: Option<&Tensor>,
        seed: Option<DropoutSeed>,
    ) -> (Tensor, ProductScores<'a, T>) {
        let q_proj = Linear::only_layer(&layer.q_proj);
        let q_projected = q_proj.forward_relu(inputs.question); // [L, A]
        let (v_projected, v_proj) = match encoded {
            Some(encoded) => (encoded.contiguous(), None),
            None => {
                let v_proj = Self::v_proj(layer);
                (per_region(inputs.features, |regions| v_proj.forward_relu(regions)), Some(v_proj))
            }
        }; // [N, K, A]
        let dim = q_projected.size()[1] as usize;
        let masks = inputs.masks(seed, dim, layer.dropout);

        let weights = layer.linear.weight() * scale(masks.as_ref()); // [1, A]
        let queries = inputs.texts.per_question(&q_projected.to_kind(Kind::Float)) * weights; // [B, A]
        let scores = match &masks {
            None => inputs.images.dots::<T>(&v_projected, &queries),
            Some(masks) => {
                let (regions, queries) = (values::<T>(&v_projected), values::<f32>(&queries));
                inputs.images.scores(|pair| {
                    let (region, query) =
                        (&regions[pair.region * dim..][..dim], &queries[pair.question * dim..][..dim]);
                    kernels::masked_dot(masks.row(pair.index), region, query)
                })
            }
        }; // [B, K]
        let scores = scores + &layer.linear.bias;
        (scores, ProductScores { layer, v_proj, v_projected, q_proj, q_projected, masks, queries })
    }

    /// Adds to the gradients of the parameters, given the gradient of the scores, [B, K] float32. Returns the gradient
    /// of the texts' hidden states, [L, H].
    pub(super) fn backward(&self, inputs: &AttentionInputs, grad_scores: &Tensor) -> Tensor {
        let AttentionInputs { images, features, texts, question } = inputs;
        let ProductScores { layer, v_projected, q_projected, .. } = self;
        let masks = self.masks.as_ref();
        let dim = q_projected.size()[1] as usize;
        add_grad(&layer.linear.bias, &grad_scores.sum(Kind::Float));

        let (queries, weights) = (values::<f32>(&self.queries), values::<f32>(grad_scores));
        let mut grad_v = images.sums_over_questions::<T>(dim, |sum, pair| {
            let query = &queries[pair.question * dim..][..dim];
            add(sum, weights[pair.index], query, masks.map(|masks| masks.row(pair.index)));
        }); // [N, K, A]
        relu_backward::<T>(&mut grad_v, v_projected, 1.0);
        let v_proj = self.v_proj.as_ref().expect("a pass that learns projects the images itself");
        v_proj.backward(&features.flatten(0, 1), &grad_v.flatten(0, 1));

        let regions = values::<T>(v_projected);
        let grad_queries = images.sums_over_regions(dim, |sum, pair| {
            let region = &regions[pair.region * dim..][..dim];
            add(sum, weights[pair.index], region, masks.map(|masks| masks.row(pair.index)));
        }); // [B, A]
        let q_per_question = texts.per_question(&q_projected.to_kind(Kind::Float)); // [B, A]
        let grad_weights = (&grad_queries * q_per_question).sum_dim_intlist(0, true, Kind::Float); // [1, A]
        let grad_weights = grad_weights * scale(masks);
        add_weight_grad::<f32>(&layer.linear, &grad_weights);
        let mut grad_q = texts.summed::<T>(&(grad_queries * layer.linear.weight() * scale(masks))); // [L, A]
        relu_backward::<T>(&mut grad_q, q_projected, 1.0);
        self.q_proj.backward(question, &grad_q);
        self.q_proj.input_grad(&grad_q)
    }
}

/// Adds a row, times its weight, to a sum; with a mask, only the entries that the mask keeps.
fn add<T: Number>(sum: &mut [f32], weight: f32, row: &[T], mask: Option<&[u16]>) {
    match mask {
        Some(mask) => kernels::add_masked(sum, weight, mask, row),
        None => kernels::add_scaled(sum, weight, row),
    }
}
