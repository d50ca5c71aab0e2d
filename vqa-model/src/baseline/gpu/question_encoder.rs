//! Word embedding and recurrent network, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::config::RnnKind;
use crate::baseline::gpu::column_sums::ColumnSums;
use crate::baseline::gpu::kernels::{Kernels, aligned, blocks, int};
use crate::baseline::gpu::recurrent_layer::{DirectionPass, Parameters, Unrolling};
use crate::baseline::layers::Baseline;
use crate::feed::cuda_kernel::KernelArgument;
use crate::feed::order::BatchOrder;

/// A forward pass of the question encoder, with what its backward pass needs. Tensors are bfloat16 unless another type
/// is named.
pub(super) struct EncoderPass<'a> {
    model: &'a Baseline,
    order: &'a BatchOrder,
    words: Tensor, // [R, word_emb_dim, aligned]
    layers: Vec<LayerPass<'a>>,
}

/// A forward pass of a layer, in each direction.
struct LayerPass<'a> {
    directions: Vec<DirectionPass<'a>>,
    /// `weight_ih` of each direction.
    weights: Vec<Tensor>, // [gates H, input]
    /// What the layer reads; `None` for the first layer, which reads words.
    input: Option<Tensor>, // [M, directions H]
}

impl<'a> EncoderPass<'a> {
    /// Returns the questions' vectors, [B, directions H], and the pass.
    pub(super) fn forward(kernels: &Kernels, model: &'a Baseline, order: &'a BatchOrder) -> (Tensor, EncoderPass<'a>) {
        let config = &model.q_emb.config;
        let dim = model.q_emb.hid_dim;
        let n_states = order.rows.size()[0];
        let n_directions = if config.bidirectional { 2 } else { 1 };
        let words = embed(kernels, &model.w_emb.weight, &order.row_words);
        let mut layers: Vec<LayerPass> = Vec::new();
        let mut output = Tensor::new();
        for (layer, weights) in model.q_emb.weights.chunks_exact(4 * n_directions).enumerate() {
            let input = (layer > 0).then_some(output);
            output = Tensor::empty([n_states, n_directions as i64 * dim], (Kind::BFloat16, words.device()));
            let mut pass = LayerPass { directions: Vec::new(), weights: Vec::new(), input };
            for (d, weights) in weights.chunks_exact(4).enumerate() {
                let [weight_ih, weight_hh, bias_ih, bias_hh] = weights else { unreachable!("chunks of four") };
                let unrolling = Unrolling { cell: config.rnn_type, dim, is_backward: d == 1, order };
                let weight = kernels.to_bf16(weight_ih);
                let from_input = pass.input.as_ref().unwrap_or(&words).mm(&weight.tr());
                let states = output.narrow(1, d as i64 * dim, dim);
                let parameters = Parameters { weight_ih, weight_hh, bias_ih, bias_hh };
                let from_input = (from_input, pass.input.is_none());
                pass.directions.push(DirectionPass::forward(kernels, unrolling, parameters, from_input, states));
                pass.weights.push(weight);
            }
            layers.push(pass);
        }
        let directions = layers.last().expect("a layer").directions.iter().enumerate();
        let last = directions.map(|(d, direction)| {
            let of_direction = output.narrow(1, d as i64 * dim, dim);
            direction.unrolling.of_last(&of_direction).index_select(0, &order.last_states)
        });
        let question = match &last.collect::<Vec<Tensor>>()[..] {
            [last] => last.shallow_clone(),
            last => Tensor::cat(last, 1),
        };
        (question, EncoderPass { model, order, words, layers })
    }

    /// Adds to the gradients of the parameters, and queues those of biases in `sums`, given the gradient of the
    /// questions' vectors, [B, directions H] float32.
    pub(super) fn backward(&self, kernels: &Kernels, grad_question: &Tensor, sums: &mut ColumnSums) {
        let dim = self.model.q_emb.hid_dim;
        let mut above: Option<Tensor> = None; // [M, directions H]
        for layer in self.layers.iter().rev() {
            let mut grads = Vec::new();
            for (d, direction) in layer.directions.iter().enumerate() {
                let share = |grad: &Tensor| grad.narrow(1, d as i64 * dim, dim);
                let grad_last = above.is_none().then(|| share(grad_question).contiguous());
                let above = above.as_ref().map(share);
                grads.push(direction.backward(kernels, grad_last, above.as_ref(), sums)); // [M, 4 H]
            }
            match &layer.input {
                None => self.add_word_gradients(kernels, layer, &grads),
                Some(input) => above = Some(layer.add_input_gradients(kernels, input, &grads)),
            }
        }
    }

    /// Adds to the gradients of the first layer's `weight_ih` and of the word vectors.
    fn add_word_gradients(&self, kernels: &Kernels, layer: &LayerPass, grads: &[Tensor]) {
        let BatchOrder { row_starts, readers, words, word_starts, .. } = self.order;
        let vectors = self.model.w_emb.weight.grad();
        let n_rows = self.words.size()[0];
        for ((direction, weight), grads) in layer.directions.iter().zip(&layer.weights).zip(grads) {
            let width = weight.size()[0];
            // A GRU's candidate gate comes first in the gradients, but last in the weights.
            let shift = if direction.unrolling.cell == RnnKind::Lstm { 0 } else { direction.unrolling.dim };
            let of_rows = Tensor::empty([n_rows, width], (Kind::BFloat16, grads.device()));
            let arguments = [
                KernelArgument::Bf16s(grads),
                KernelArgument::Ints(readers),
                KernelArgument::Ints(row_starts),
                KernelArgument::Bf16s(&of_rows),
                int(width),
                int(grads.size()[1]),
                int(shift),
            ];
            kernels.for_blocks("sum_by_row", [n_rows, blocks(width, 8 * 256)], &arguments);
            kernels.add_rows(&of_rows.tr().mm(&self.words), &direction.parameters.weight_ih.grad());
            let grad_words = of_rows.mm(weight); // [R, word_emb_dim, aligned]
            let arguments = [
                KernelArgument::Bf16s(&grad_words),
                KernelArgument::Ints(word_starts),
                KernelArgument::Ints(words),
                KernelArgument::Floats(&vectors),
                int(vectors.size()[1]),
                int(grad_words.size()[1]),
            ];
            kernels.for_blocks("add_word_gradients", [n_rows, 1], &arguments);
        }
    }
}

impl LayerPass<'_> {
    /// Adds to the gradients of `weight_ih`. Returns the gradient of the input, [M, directions H].
    fn add_input_gradients(&self, kernels: &Kernels, input: &Tensor, grads: &[Tensor]) -> Tensor {
        let mut of_input: Option<Tensor> = None;
        for ((direction, weight), grads) in self.directions.iter().zip(&self.weights).zip(grads) {
            let Unrolling { cell, dim, .. } = direction.unrolling;
            let by_input = direction.unrolling.by_input(grads); // [M, gates H]
            let grad_weight = by_input.tr().mm(input); // [gates H, directions H]
            let to = direction.parameters.weight_ih.grad();
            // A GRU's candidate gate comes first in the gradients, but last in the weights.
            let n_first = if cell == RnnKind::Lstm { 0 } else { dim };
            let n_rest = weight.size()[0] - n_first;
            kernels.add_rows(&grad_weight.narrow(0, n_first, n_rest), &to.narrow(0, 0, n_rest));
            if n_first > 0 {
                kernels.add_rows(&grad_weight.narrow(0, 0, n_first), &to.narrow(0, n_rest, n_first));
            }
            let weight = Tensor::cat(&[weight.narrow(0, n_rest, n_first), weight.narrow(0, 0, n_rest)], 0);
            let of_direction = by_input.mm(&weight);
            of_input = Some(of_input.map_or_else(|| of_direction.shallow_clone(), |other| other + &of_direction));
        }
        of_input.expect("a direction")
    }
}

/// Looks up a row for each of these words, [R, word_emb_dim, aligned].
fn embed(kernels: &Kernels, vectors: &Tensor, words: &Tensor) -> Tensor {
    let (n_rows, dim) = (words.size()[0], vectors.size()[1]);
    let rows = Tensor::empty([n_rows, aligned(dim)], (Kind::BFloat16, words.device()));
    let arguments = [
        KernelArgument::Floats(vectors),
        KernelArgument::Ints(words),
        KernelArgument::Bf16s(&rows),
        int(dim),
        int(aligned(dim)),
    ];
    kernels.for_blocks("embed", [n_rows, 1], &arguments);
    rows
}
