//! Top-down attention, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::config::AttentionKind;
use crate::baseline::cpu::masks::threshold_and_scale;
use crate::baseline::gpu::column_sums::ColumnSums;
use crate::baseline::gpu::kernels::{Kernels, blocks, int, or_null};
use crate::baseline::gpu::weights::{NormedLayer, NormedLayers};
use crate::feed::cuda_kernel::KernelArgument;
use crate::feed::order::BatchOrder;
use crate::model::ModelInput;

/// The most regions and the longest vectors that the kernels have shared memory for.
pub(super) const MAX_REGIONS: i64 = 1024;
pub(super) const MAX_DIM: i64 = 4096;

/// The parameters that determine dropout's masks.
pub(super) struct Dropout {
    /// `[1]` int64, on the device.
    seed: Tensor,
    threshold: u32,
    /// What kept entries are multiplied by.
    pub(super) scale: f32,
}

impl Dropout {
    /// Dropout with probability `p`.
    pub(super) fn new(seed: &Tensor, p: f64) -> Dropout {
        let (threshold, scale) = threshold_and_scale(p);
        Dropout { seed: seed.shallow_clone(), threshold, scale }
    }

    /// Seed, threshold and scale, as arguments of kernels.
    pub(super) fn arguments(&self) -> [KernelArgument<'_>; 3] {
        let threshold = int(i64::from(self.threshold));
        [KernelArgument::Longs(&self.seed), threshold, KernelArgument::Float(self.scale)]
    }
}

/// A forward pass of attention, with what its backward pass needs. Tensors are bfloat16 unless another type is named.
pub(super) struct AttentionPass<'a> {
    kind: AttentionKind,
    order: &'a BatchOrder,
    dropout: Dropout,
    features: Tensor,  // [N, K, D]
    compared: Tensor,  // [N K, A]
    questions: Tensor, // [B, A]
    attention: Tensor, // [B, K] float32
}

/// Index of attention's first layer among those with weight norm.
const FIRST: usize = 0;

impl<'a> AttentionPass<'a> {
    /// Returns the attention weights of the regions, [B, K] float32, the sums of the regions with these weights,
    /// [B, D], and the pass, from the questions' vectors, [B, question_dim]. Attention's layers are the first of
    /// `layers`.
    pub(super) fn forward(
        kernels: &Kernels,
        kind: AttentionKind,
        layers: &NormedLayers,
        input: &ModelInput,
        order: &'a BatchOrder,
        question: &Tensor,
        dropout: Dropout,
    ) -> (Tensor, Tensor, AttentionPass<'a>) {
        let features = input.features.contiguous();
        let [n, k, d] = features.size()[..] else { panic!("features are [N, K, D]") };
        let b = question.size()[0];
        let regions = features.view([n * k, d]);
        let first = layers.of(FIRST);
        let (compared, questions) = match kind {
            AttentionKind::Product => (first.forward_relu(&regions), layers.of(FIRST + 1).forward_relu(question)),
            AttentionKind::Concat => {
                // The product with [region; question] is the sum of two products.
                let [of_regions, of_questions] = parts(first, d);
                (regions.mm(&of_regions.tr()), first.bias.addmm(question, &of_questions.tr()))
            }
        };
        let dim = questions.size()[1];
        let attention = Tensor::empty([b, k], (Kind::Float, features.device()));
        let attended = Tensor::empty([b, d], (Kind::BFloat16, features.device()));
        let padding = input.padding.as_ref().map(Tensor::contiguous);
        let arguments = [
            &[
                KernelArgument::Bf16s(&compared),
                KernelArgument::Bf16s(&questions),
                KernelArgument::Bf16s(&last_layer(kind, layers).weight),
                KernelArgument::Bf16s(&features),
                KernelArgument::Ints(&order.question_images),
                or_null(padding.as_ref(), KernelArgument::Bools),
            ][..],
            &dropout.arguments(),
            &[KernelArgument::Floats(&attention), KernelArgument::Bf16s(&attended), int(k), int(dim), int(d)],
        ];
        let name = by_kind(kind, ["attend_by_product", "attend_by_concat"]);
        kernels.for_blocks(name, [b, 1], &arguments.concat());
        let returned = attention.shallow_clone();
        (returned, attended, AttentionPass { kind, order, dropout, features, compared, questions, attention })
    }

    /// Records the gradients of the parameters, given the gradient of the weighted sums, [B, D]. Returns the gradient
    /// of the questions' vectors, [B, question_dim].
    pub(super) fn backward(
        &self,
        kernels: &Kernels,
        layers: &NormedLayers,
        question: &Tensor,
        grad_attended: &Tensor,
        sums: &mut ColumnSums,
    ) -> Tensor {
        let AttentionPass { kind, order, dropout, features, compared, questions, attention } = self;
        let [n, k, d] = features.size()[..] else { panic!("features are [N, K, D]") };
        let &[b, dim] = &questions.size()[..] else { panic!("[B, A]") };
        let grad_scores = attention.empty_like();
        let [grad_questions, grad_weights] = [(); 2].map(|()| questions.empty_like());
        let weight = KernelArgument::Bf16s(&last_layer(*kind, layers).weight);
        let sizes = [int(k), int(dim)];
        let arguments = [
            &[
                KernelArgument::Bf16s(grad_attended),
                KernelArgument::Bf16s(compared),
                KernelArgument::Bf16s(questions),
                weight,
                KernelArgument::Bf16s(features),
                KernelArgument::Ints(&order.question_images),
            ][..],
            &dropout.arguments(),
            &[
                KernelArgument::Floats(attention),
                KernelArgument::Floats(&grad_scores),
                KernelArgument::Bf16s(&grad_questions),
                KernelArgument::Bf16s(&grad_weights),
            ],
            &sizes,
            &[int(d)],
        ];
        let name = by_kind(*kind, ["attend_by_product_backward", "attend_by_concat_backward"]);
        kernels.for_blocks(name, [b, 1], &arguments.concat());

        let grad_compared = compared.empty_like(); // [N K, A]
        let arguments = [
            &[
                KernelArgument::Bf16s(compared),
                KernelArgument::Bf16s(questions),
                weight,
                KernelArgument::Floats(&grad_scores),
                KernelArgument::Ints(&order.image_starts),
                KernelArgument::Ints(&order.image_questions),
            ][..],
            &dropout.arguments(),
            &[KernelArgument::Bf16s(&grad_compared)],
            &sizes,
        ];
        let regions_of_block = 256 / (dim / 16);
        let name = by_kind(*kind, ["region_gradients_by_product", "region_gradients_by_concat"]);
        kernels.for_blocks(name, [n, blocks(k, regions_of_block)], &arguments.concat());

        // The sum of the rows of `grad_weights`. The bias of the scores gets no gradient, since softmax is invariant
        // to it.
        let ones = Tensor::ones([1, b], (Kind::BFloat16, features.device()));
        last_layer(*kind, layers).set_grad(ones.mm(&grad_weights)); // [1, A]
        let regions = features.view([n * k, d]);
        let first = layers.of(FIRST);
        match kind {
            AttentionKind::Product => {
                first.backward(&regions, &grad_compared, sums);
                let second = layers.of(FIRST + 1);
                second.backward(question, &grad_questions, sums);
                second.input_grad(&grad_questions)
            }
            AttentionKind::Concat => {
                first.set_grad(Tensor::cat(&[grad_compared.tr().mm(&regions), grad_questions.tr().mm(question)], 1));
                sums.add(&grad_questions, &[&first.bias_grad()]);
                let [_, of_questions] = parts(first, d);
                grad_questions.mm(&of_questions)
            }
        }
    }
}

fn by_kind(kind: AttentionKind, [product, concat]: [&str; 2]) -> &str {
    match kind {
        AttentionKind::Product => product,
        AttentionKind::Concat => concat,
    }
}

/// The number of attention's layers.
pub(super) fn n_layers(kind: AttentionKind) -> usize {
    match kind {
        AttentionKind::Product => 3,
        AttentionKind::Concat => 2,
    }
}

/// The layer that computes the score.
fn last_layer<'a, 'b>(kind: AttentionKind, layers: &'b NormedLayers<'a>) -> &'b NormedLayer<'a> {
    layers.of(FIRST + n_layers(kind) - 1)
}

/// Splits the weights of a layer over [region; question] into those of a region of length `feature_dim` and those of a
/// question.
fn parts(layer: &NormedLayer, feature_dim: i64) -> [Tensor; 2] {
    let question_dim = layer.weight.size()[1] - feature_dim;
    [layer.weight.narrow(1, 0, feature_dim), layer.weight.narrow(1, feature_dim, question_dim)]
}
