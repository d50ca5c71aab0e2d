//! The cell of an LSTM, forward and backward.

use multiversion::multiversion;

use crate::baseline::cpu::cell::{BackwardStep, Cell, Step, StepGrads, parts, parts_mut};
use crate::cpu::kernels::{sigmoid, tanh};
use crate::cpu::slice::Number;

/// Long short-term memory, with PyTorch's order of gates: input, forget, cell, output.
pub(super) struct Lstm;

impl Cell for Lstm {
    const N_GATES: usize = 4;
    /// Hidden state and cell state.
    const N_STATES: usize = 2;
    /// The gates. The hyperbolic tangent of the cell state is recomputed, which costs less than storing it.
    const N_SAVED: usize = 4;
    const N_SEPARATE: usize = 0;

    fn forward<T: Number>(step: Step<T>, state: &mut [f32], saved: &mut [T]) {
        forward(step, state, saved);
    }

    fn backward<T: Number>(step: BackwardStep<T>, grads: StepGrads<T>) {
        backward(step, grads);
    }
}

#[multiversion(targets = "simd")]
fn forward<T: Number>(step: Step<T>, state: &mut [f32], saved: &mut [T]) {
    let h = step.prev.len();
    let ([xi, xf, xg, xo], [hi, hf, hg, ho]) = (parts(step.input_gates), parts(step.state_gates));
    let ([bxi, bxf, bxg, bxo], [bhi, bhf, bhg, bho]) = (parts(step.bias_ih), parts(step.bias_hh));
    // Slices of one length known here, so that the loop needs no bounds checks.
    let (xi, xf, xg, xo) = (&xi[..h], &xf[..h], &xg[..h], &xo[..h]);
    let (hi, hf, hg, ho) = (&hi[..h], &hf[..h], &hg[..h], &ho[..h]);
    let (bxi, bxf, bxg, bxo) = (&bxi[..h], &bxf[..h], &bxg[..h], &bxo[..h]);
    let (bhi, bhf, bhg, bho) = (&bhi[..h], &bhf[..h], &bhg[..h], &bho[..h]);
    let prev = &step.prev[..h];
    let [hidden, cell] = parts_mut(state);
    let (hidden, cell) = (&mut hidden[..h], &mut cell[..h]);
    let [input, forget, new, output] = parts_mut(saved);
    let (input, forget, new, output) = (&mut input[..h], &mut forget[..h], &mut new[..h], &mut output[..h]);
    for j in 0..h {
        let i = sigmoid(xi[j].to_f32() + bxi[j] + hi[j].to_f32() + bhi[j]);
        let f = sigmoid(xf[j].to_f32() + bxf[j] + hf[j].to_f32() + bhf[j]);
        let g = tanh(xg[j].to_f32() + bxg[j] + hg[j].to_f32() + bhg[j]);
        let o = sigmoid(xo[j].to_f32() + bxo[j] + ho[j].to_f32() + bho[j]);
        let c = f * prev[j] + i * g;
        cell[j] = c;
        hidden[j] = o * tanh(c);
        input[j] = T::from_f32(i);
        forget[j] = T::from_f32(f);
        new[j] = T::from_f32(g);
        output[j] = T::from_f32(o);
    }
}

#[multiversion(targets = "simd")]
fn backward<T: Number>(step: BackwardStep<T>, grads: StepGrads<T>) {
    let h = step.prev.len();
    let [input, forget, new, output] = parts(step.saved);
    let (input, forget, new, output) = (&input[..h], &forget[..h], &new[..h], &output[..h]);
    let ([_, cell], [grad_hidden, grad_cell]) = (parts(step.state), parts(step.grad_state));
    let (prev, cell, grad_hidden, grad_cell) = (&step.prev[..h], &cell[..h], &grad_hidden[..h], &grad_cell[..h]);
    let [grad_input, grad_forget, grad_new, grad_output] = parts_mut(grads.gates);
    let (grad_input, grad_forget) = (&mut grad_input[..h], &mut grad_forget[..h]);
    let (grad_new, grad_output) = (&mut grad_new[..h], &mut grad_output[..h]);
    let grad_prev = &mut grads.prev[..h];
    for j in 0..h {
        let (i, f, g, o) = (input[j].to_f32(), forget[j].to_f32(), new[j].to_f32(), output[j].to_f32());
        let tanh_c = tanh(cell[j]);
        let dh = grad_hidden[j];
        let dc = grad_cell[j] + dh * o * (1.0 - tanh_c * tanh_c);
        grad_input[j] = T::from_f32(dc * g * i * (1.0 - i));
        grad_forget[j] = T::from_f32(dc * prev[j] * f * (1.0 - f));
        grad_new[j] = T::from_f32(dc * i * (1.0 - g * g));
        grad_output[j] = T::from_f32(dh * tanh_c * o * (1.0 - o));
        grad_prev[j] = dc * f;
    }
}
