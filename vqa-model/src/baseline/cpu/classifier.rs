//! Fusion and classifier, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::cpu::linear::{Linear, relu_backward};
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::baseline::layers::Baseline;
use crate::cpu::slice::Number;
use crate::model::DropoutSeed;

/// A forward pass of fusion and classifier, with what its backward pass needs. Tensors are of type `T`.
pub(super) struct ClassifierPass<'a, T> {
    q_net: Linear<'a, T>,
    v_net: Linear<'a, T>,
    hidden: Linear<'a, T>,
    output: Linear<'a, T>,
    attended: Tensor,    // [B, D]
    q_repr: Tensor,      // [L, H]
    v_repr: Tensor,      // [B, H]
    joint: Tensor,       // [B, H]
    activations: Tensor, // [B, M], after ReLU and dropout
    dropout_scale: f32,
}

impl<'a, T: Number> ClassifierPass<'a, T> {
    /// Returns the logits, [B, n_answers] float32, and the pass, from the texts' hidden states, [L, H], and the
    /// questions' weighted sums of regions, [B, D]. With a seed, dropout is on.
    pub(super) fn forward(
        model: &'a Baseline,
        texts: &DistinctTexts,
        question: &Tensor,
        attended: Tensor,
        seed: Option<DropoutSeed>,
    ) -> (Tensor, ClassifierPass<'a, T>) {
        let (q_net, v_net) = (Linear::only_layer(&model.q_net), Linear::only_layer(&model.v_net));
        let (hidden, output) = (Linear::new(&model.classifier.hidden), Linear::new(&model.classifier.output));

        let q_repr = q_net.forward_relu(question); // [L, H]
        let v_repr = v_net.forward_relu(&attended); // [B, H]
        let joint = texts.per_question(&q_repr) * &v_repr; // [B, H]
        let mut activations = hidden.forward_relu(&joint); // [B, M]
        let dropout = model.classifier.dropout;
        let mut dropout_scale = 1.0;
        if let Some(seed) = seed.filter(|_| dropout > 0.0) {
            let [rows, columns] = activations.size()[..] else { unreachable!("[B, M]") };
            let masks = DropoutMasks::draw(seed, rows as usize, 1, columns as usize, dropout);
            masks.apply::<T>(&mut activations);
            dropout_scale = masks.scale;
        }
        let logits = output.forward_float(&activations); // [B, n_answers]

        let pass = ClassifierPass {
            q_net,
            v_net,
            hidden,
            output,
            attended,
            q_repr,
            v_repr,
            joint,
            activations,
            dropout_scale,
        };
        (logits, pass)
    }

    /// Adds to the gradients of the parameters, given the gradient of the logits, [B, n_answers] float32. Returns the
    /// gradients of the texts' hidden states, [L, H], and of the weighted sums, [B, D], both float32.
    pub(super) fn backward(self, texts: &DistinctTexts, question: &Tensor, grad_logits: &Tensor) -> [Tensor; 2] {
        let grad_logits = grad_logits.to_kind(T::KIND);
        self.output.backward(&self.activations, &grad_logits);
        let mut grad_hidden = self.output.input_grad(&grad_logits); // [B, M]
        relu_backward::<T>(&mut grad_hidden, &self.activations, self.dropout_scale);
        self.hidden.backward(&self.joint, &grad_hidden);
        let grad_joint = self.hidden.input_grad(&grad_hidden); // [B, H]

        let mut grad_v = &grad_joint * texts.per_question(&self.q_repr); // [B, H]
        relu_backward::<T>(&mut grad_v, &self.v_repr, 1.0);
        self.v_net.backward(&self.attended, &grad_v);
        let grad_attended = self.v_net.input_grad(&grad_v).to_kind(Kind::Float); // [B, D]

        let mut grad_q = texts.summed::<T>(&(grad_joint * &self.v_repr)); // [L, H]
        relu_backward::<T>(&mut grad_q, &self.q_repr, 1.0);
        self.q_net.backward(question, &grad_q);
        let grad_question = self.q_net.input_grad(&grad_q).to_kind(Kind::Float); // [L, H]
        [grad_question, grad_attended]
    }
}
