//! The full step: question encoder, attention and classifier, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::config::AttentionKind;
use crate::baseline::gpu::attention::{self, AttentionPass, Dropout, MAX_DIM, MAX_REGIONS};
use crate::baseline::gpu::column_sums::ColumnSums;
use crate::baseline::gpu::kernels::{Kernels, int};
use crate::baseline::gpu::question_encoder::EncoderPass;
use crate::baseline::gpu::weights::NormedLayers;
use crate::baseline::layers::Baseline;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::feed::cuda_kernel::KernelArgument;
use crate::feed::order::BatchOrder;
use crate::model::{ModelInput, ModelOutput, TrainingPass};

/// Whether this step can handle a model, given batches whose order is known: its widths must be multiples of what the
/// kernels process at a time, it must have several answers, and there must be no dropout between recurrent layers.
pub(crate) fn serves_model(model: &Baseline) -> bool {
    let (hid_dim, mlp_dim) = (model.q_emb.hid_dim, model.classifier.hidden.bias.size()[0]);
    let dim = model.v_att.weight_norm_layers()[0].bias.size()[0];
    let is_cut = |dim: i64, by: i64| dim % by == 0;
    let widths = is_cut(hid_dim, 8) && is_cut(dim, 32) && is_cut(mlp_dim, 32) && dim <= MAX_DIM;
    // The weights of a layer with one output are laid out for attention, not for a product.
    let n_answers = model.classifier.output.bias.size()[0];
    widths && n_answers > 1 && model.q_emb.config.dropout == 0.0
}

/// Whether this step can handle a model and an input, on any device: the model must satisfy [`serves_model`], the input
/// must be in bfloat16 with its order, and all parameters must be trainable.
pub(crate) fn serves(model: &Baseline, input: &ModelInput) -> bool {
    let [_, k, d] = input.features.size()[..] else { return false };
    let fits = k <= MAX_REGIONS && d <= MAX_DIM && d % 8 == 0;
    let is_learnt = |parameter: &Tensor| {
        let has_gradient = || parameter.grad().defined() && parameter.grad().is_contiguous();
        parameter.kind() == Kind::Float && parameter.requires_grad() && parameter.is_contiguous() && has_gradient()
    };
    let layers = model.weight_norm_layers();
    let normed = layers.iter().flat_map(|layer| [&layer.weight_v, &layer.weight_g, &layer.bias]);
    let mut parameters = normed.chain(&model.q_emb.weights).chain([&model.w_emb.weight]);
    input.features.kind() == Kind::BFloat16
        && input.features.numel() > 0
        && input.order.is_some()
        && serves_model(model)
        && fits
        && parameters.all(is_learnt)
}

/// Runs the forward half of a training step, for a model and an input that [`serves`] accepts. Dropout is determined by
/// a seed, `[1]` int64, on the device.
pub(crate) fn train<'a>(
    model: &'a Baseline,
    kernels: &'a Kernels,
    input: &'a ModelInput,
    seed: Tensor,
) -> TrainingPass<'a> {
    let order = input.order.as_ref().expect("a batch whose order is known");
    let (output, pass) = tch::no_grad(|| ForwardPass::forward(model, kernels, input, order, seed));
    TrainingPass::new(output, move |grad_logits| tch::no_grad(|| pass.backward(kernels, grad_logits)))
}

/// A forward pass, with what its backward pass needs. Tensors are bfloat16.
struct ForwardPass<'a> {
    layers: NormedLayers<'a>,
    first: usize,
    encoder: EncoderPass<'a>,
    attention: AttentionPass<'a>,
    question: Tensor, // [B, question_dim]
    attended: Tensor, // [B, D]
    q_repr: Tensor,   // [B, H]
    v_repr: Tensor,   // [B, H]
    joint: Tensor,    // [B, H]
    hidden: Tensor,   // [B, M], after ReLU and dropout
    scale: f32,
}

impl<'a> ForwardPass<'a> {
    fn forward(
        model: &'a Baseline,
        kernels: &Kernels,
        input: &ModelInput,
        order: &'a BatchOrder,
        seed: Tensor,
    ) -> (ModelOutput, ForwardPass<'a>) {
        let layers = NormedLayers::new(kernels, &model.weight_norm_layers());
        let (question, encoder) = EncoderPass::forward(kernels, model, order);
        let (kind, p) = match &model.v_att {
            TopdownAttention::Product(attention) => (AttentionKind::Product, attention.dropout),
            TopdownAttention::Concat(attention) => (AttentionKind::Concat, attention.dropout),
        };
        let dropout = Dropout::new(&seed, p);
        let (weights, attended, attention) =
            AttentionPass::forward(kernels, kind, &layers, input, order, &question, dropout);

        // The classifier's layers come after attention's.
        let first = attention::n_layers(kind);
        let q_repr = layers.of(first).forward_relu(&question);
        let v_repr = layers.of(first + 1).forward_relu(&attended);
        let joint = q_repr.empty_like();
        let factors = [&q_repr, &v_repr, &joint].map(KernelArgument::Bf16s);
        kernels.for_each_eight("multiply", &joint, &factors);
        let hidden = layers.of(first + 2).forward_relu(&joint);
        let dropout = Dropout::new(&seed, model.classifier.dropout);
        let [rows, columns] = hidden.size()[..] else { panic!("[B, M]") };
        let arguments = [&[KernelArgument::Bf16s(&hidden)][..], &dropout.arguments(), &[int(rows), int(columns)]];
        kernels.for_each("dropout", rows * columns / 16, &arguments.concat());
        let logits = layers.of(first + 3).forward(&hidden);
        let logits = kernels.to_float(&logits, model.classifier.output.bias.size()[0]);

        let scale = dropout.scale;
        let pass =
            ForwardPass { layers, first, encoder, attention, question, attended, q_repr, v_repr, joint, hidden, scale };
        (ModelOutput { logits, attention: weights }, pass)
    }

    /// Adds to the gradients of all parameters, given the gradient of the logits, [B, n_answers] float32.
    fn backward(self, kernels: &Kernels, grad_logits: &Tensor) {
        let ForwardPass { layers, first, question, attended, q_repr, v_repr, joint, hidden, .. } = &self;
        let mut sums = ColumnSums::default();
        let grad_logits = kernels.to_bf16(&grad_logits.contiguous());
        let output = layers.of(first + 3);
        output.backward(hidden, &grad_logits, &mut sums);
        let grad_hidden = output.input_grad(&grad_logits);
        let arguments =
            [KernelArgument::Bf16s(&grad_hidden), KernelArgument::Bf16s(hidden), KernelArgument::Float(self.scale)];
        kernels.for_each_eight("relu_backward", &grad_hidden, &arguments);
        let of_hidden = layers.of(first + 2);
        of_hidden.backward(joint, &grad_hidden, &mut sums);
        let grad_joint = of_hidden.input_grad(&grad_hidden);

        let [grad_q, grad_v] = [(); 2].map(|()| joint.empty_like());
        let factors = [&grad_joint, q_repr, v_repr, &grad_q, &grad_v].map(KernelArgument::Bf16s);
        kernels.for_each_eight("multiply_backward", joint, &factors);
        let (q_net, v_net) = (layers.of(*first), layers.of(first + 1));
        q_net.backward(question, &grad_q, &mut sums);
        v_net.backward(attended, &grad_v, &mut sums);
        let grad_attended = v_net.input_grad(&grad_v);
        let by_fusion = q_net.input_grad(&grad_q);

        let by_attention = self.attention.backward(kernels, layers, question, &grad_attended, &mut sums);
        let grad_question = Tensor::empty(by_fusion.size(), (Kind::Float, by_fusion.device()));
        let both = [&by_fusion, &by_attention].map(KernelArgument::Bf16s);
        kernels.for_each_eight("add_to_float", &by_fusion, &[both[0], both[1], KernelArgument::Floats(&grad_question)]);
        self.encoder.backward(kernels, &grad_question, &mut sums);
        sums.finish(kernels);
        self.layers.add_gradients(kernels);
    }
}

/// Draws a seed from libtorch's generator, on the device, so that each replay of a recorded step draws a new one.
pub(crate) fn draw_seed(device: tch::Device) -> Tensor {
    Tensor::randint(i64::MAX, [1], (Kind::Int64, device))
}
