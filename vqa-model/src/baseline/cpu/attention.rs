//! Top-down attention by products, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::cpu::gradients::add_grad;
use crate::baseline::cpu::linear::{Linear, add_weight_grad, relu_backward};
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::question_images::QuestionImages;
use crate::baseline::cpu::slice::Number;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::baseline::topdown_attention::{ProductAttention, TopdownAttention};
use crate::model::{DropoutSeed, ModelInput};

/// Whether this attention is written out.
pub(super) fn serves(attention: &TopdownAttention) -> bool {
    matches!(attention, TopdownAttention::Product(_))
}

/// The projections of the regions of images, [N, K, A], whose features are [N, K, D].
pub(super) fn encode_images<T: Number>(attention: &TopdownAttention, features: &Tensor) -> Tensor {
    let TopdownAttention::Product(layer) = attention else { panic!("attention by products") };
    project(&Linear::<T>::only_layer(&layer.v_proj), &features.contiguous())
}

/// The projections, [N, K, A], of regions [N, K, D].
fn project<T: Number>(v_proj: &Linear<T>, features: &Tensor) -> Tensor {
    let [n, k, d] = features.size()[..] else { panic!("features are [N, K, D]") };
    v_proj.forward_relu(&features.view([n * k, d])).view([n, k, -1])
}

/// A forward pass of attention, with what its backward pass needs. Tensors are of type `T` where no other is named.
pub(super) struct AttentionPass<'a, T> {
    layer: &'a ProductAttention,
    images: QuestionImages,
    features: Tensor, // [N, K, D]
    /// Nothing where the images were projected before, and nothing is learnt.
    v_proj: Option<Linear<'a, T>>,
    v_projected: Tensor, // [N, K, A]
    q_proj: Linear<'a, T>,
    q_projected: Tensor,         // [L, A]
    masks: Option<DropoutMasks>, // of [B K, A]
    queries: Tensor,             // [B, A] float32, the questions' projections times the weights of the last layer
    attention: Tensor,           // [B, K] float32
}

impl<'a, T: Number> AttentionPass<'a, T> {
    /// The weights of the regions, [B, K] float32, the sums of the regions by these weights, [B, D], and the
    /// pass; from the states of the texts, [L, H], and the images' projections, if they are there already. With a
    /// seed, dropout is on.
    pub(super) fn forward(
        layer: &'a TopdownAttention,
        input: &ModelInput,
        encoded: Option<&Tensor>,
        texts: &DistinctTexts,
        question: &Tensor,
        seed: Option<DropoutSeed>,
    ) -> (Tensor, Tensor, AttentionPass<'a, T>) {
        let TopdownAttention::Product(layer) = layer else { panic!("attention by products") };
        let features = input.features.contiguous();
        let [n, k, _] = features.size()[..] else { panic!("features are [N, K, D]") };
        let image_rows = Vec::try_from(input.image_rows.contiguous()).expect("a flat tensor of integers");
        let images = QuestionImages::new(image_rows, n as usize, k as usize);

        let q_proj = Linear::only_layer(&layer.q_proj);
        let q_projected = q_proj.forward_relu(question); // [L, A]
        let (v_projected, v_proj) = match encoded {
            Some(encoded) => (encoded.contiguous(), None),
            None => {
                let v_proj = Linear::only_layer(&layer.v_proj);
                (project(&v_proj, &features), Some(v_proj))
            }
        }; // [N, K, A]
        let masks = seed.filter(|_| layer.dropout > 0.0).map(|seed| {
            DropoutMasks::draw(seed, images.n_pairs(), k as usize, q_projected.size()[1] as usize, layer.dropout)
        });

        let weights = layer.linear.weight() * scale(masks.as_ref()); // [1, A]
        let queries = texts.per_question(&q_projected.to_kind(Kind::Float)) * weights; // [B, A]
        let scores = images.dots::<T>(&v_projected, &queries, masks.as_ref()) + &layer.linear.bias; // [B, K]
        let attention = input.attention(&scores); // [B, K]
        let attended = images.weighted_sums::<T>(&features, &attention, None).to_kind(T::KIND); // [B, D]

        let returned = attention.shallow_clone();
        let pass = AttentionPass {
            layer,
            images,
            features,
            v_proj,
            v_projected,
            q_proj,
            q_projected,
            masks,
            queries,
            attention,
        };
        (returned, attended, pass)
    }

    /// Adds to the gradients of the parameters, given that of the weighted sums, [B, D] float32. Returns that
    /// of the texts' states, [L, H] float32.
    pub(super) fn backward(self, texts: &DistinctTexts, question: &Tensor, grad_attended: &Tensor) -> Tensor {
        let AttentionPass { layer, images, features, v_projected, q_projected, .. } = &self;
        let masks = self.masks.as_ref();
        let [n, k, d] = features.size()[..] else { panic!("features are [N, K, D]") };

        // Softmax: adding the same to all scores of a question changes nothing, so that part of the gradient is
        // taken off. Before anything is rounded again: what regions have in common makes it by far the largest part.
        let grad_attention = images.dots::<T>(features, grad_attended, None); // [B, K]
        let common = (&grad_attention * &self.attention).sum_dim_intlist(1, true, Kind::Float); // [B, 1]
        let grad_scores = (grad_attention - common) * &self.attention; // [B, K]
        add_grad(&layer.linear.bias, &grad_scores.sum(Kind::Float));

        let mut grad_v = images.sums_over_questions::<T>(&self.queries, &grad_scores, masks); // [N, K, A]
        relu_backward::<T>(&mut grad_v, v_projected, 1.0);
        let v_proj = self.v_proj.as_ref().expect("a pass that learns projects the images itself");
        v_proj.backward(&features.view([n * k, d]), &grad_v.view([n * k, -1]));

        let grad_queries = images.weighted_sums::<T>(v_projected, &grad_scores, masks); // [B, A]
        let q_per_question = texts.per_question(&q_projected.to_kind(Kind::Float)); // [B, A]
        let grad_weights = (&grad_queries * q_per_question).sum_dim_intlist(0, true, Kind::Float); // [1, A]
        let grad_weights = grad_weights * scale(masks);
        add_weight_grad::<f32>(&layer.linear, &grad_weights);
        let mut grad_q = texts.summed::<T>(&(grad_queries * layer.linear.weight() * scale(masks))); // [L, A]
        relu_backward::<T>(&mut grad_q, q_projected, 1.0);
        self.q_proj.backward(question, &grad_q);
        self.q_proj.input_grad(&grad_q).to_kind(Kind::Float)
    }
}

/// The factor of what dropout keeps. It goes into the weights of the last layer, not into each of the products.
fn scale(masks: Option<&DropoutMasks>) -> f64 {
    masks.map_or(1.0, |masks| f64::from(masks.scale))
}
