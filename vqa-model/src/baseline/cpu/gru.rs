//! The cell of a GRU, forward and backward.

use multiversion::multiversion;

use crate::baseline::cpu::cell::{BackwardStep, Cell, Step, StepGrads, parts, parts_mut};
use crate::cpu::kernels::{sigmoid, tanh};
use crate::cpu::slice::Number;

/// A gated recurrent unit, with PyTorch's order of gates: reset, update, new.
pub(super) struct Gru;

impl Cell for Gru {
    const N_GATES: usize = 3;
    const N_STATES: usize = 1;
    /// The reset, update and new gates, and the hidden term of the new gate.
    const N_SAVED: usize = 4;
    /// The reset gate scales the hidden term of the new gate before the input term is added.
    const N_SEPARATE: usize = 1;

    fn forward<T: Number>(step: Step<T>, state: &mut [f32], saved: &mut [T]) {
        forward(step, state, saved);
    }

    fn backward<T: Number>(step: BackwardStep<T>, grads: StepGrads<T>) {
        backward(step, grads);
    }
}

#[multiversion(targets = "simd")]
fn forward<T: Number>(step: Step<T>, state: &mut [f32], saved: &mut [T]) {
    let h = state.len();
    let ([xr, xz, xn], [hr, hz, hn]) = (parts(step.input_gates), parts(step.state_gates));
    let ([bxr, bxz, bxn], [bhr, bhz, bhn]) = (parts(step.bias_ih), parts(step.bias_hh));
    // Slices of one length known here, so that the loop needs no bounds checks.
    let (xr, xz, xn, hr, hz, hn) = (&xr[..h], &xz[..h], &xn[..h], &hr[..h], &hz[..h], &hn[..h]);
    let (bxr, bxz, bxn, bhr, bhz, bhn) = (&bxr[..h], &bxz[..h], &bxn[..h], &bhr[..h], &bhz[..h], &bhn[..h]);
    let prev = &step.prev[..h];
    let [reset, update, new, state_new] = parts_mut(saved);
    let (reset, update, new, state_new) = (&mut reset[..h], &mut update[..h], &mut new[..h], &mut state_new[..h]);
    for i in 0..h {
        let r = sigmoid(xr[i].to_f32() + bxr[i] + hr[i].to_f32() + bhr[i]);
        let z = sigmoid(xz[i].to_f32() + bxz[i] + hz[i].to_f32() + bhz[i]);
        let s = hn[i].to_f32() + bhn[i];
        let n = tanh(xn[i].to_f32() + bxn[i] + r * s);
        state[i] = n + z * (prev[i] - n);
        reset[i] = T::from_f32(r);
        update[i] = T::from_f32(z);
        new[i] = T::from_f32(n);
        state_new[i] = T::from_f32(s);
    }
}

#[multiversion(targets = "simd")]
fn backward<T: Number>(step: BackwardStep<T>, grads: StepGrads<T>) {
    let h = step.grad_state.len();
    let [reset, update, new, state_new] = parts(step.saved);
    let (reset, update, new, state_new) = (&reset[..h], &update[..h], &new[..h], &state_new[..h]);
    let (prev, grad_state) = (&step.prev[..h], &step.grad_state[..h]);
    let [grad_reset, grad_update, grad_state_new] = parts_mut(grads.gates);
    let (grad_reset, grad_update, grad_state_new) =
        (&mut grad_reset[..h], &mut grad_update[..h], &mut grad_state_new[..h]);
    let (grad_new, grad_prev) = (&mut grads.separate[..h], &mut grads.prev[..h]);
    for i in 0..h {
        let (r, z, n, s) = (reset[i].to_f32(), update[i].to_f32(), new[i].to_f32(), state_new[i].to_f32());
        let d = grad_state[i];
        let dn = d * (1.0 - z) * (1.0 - n * n);
        grad_new[i] = T::from_f32(dn);
        grad_state_new[i] = T::from_f32(dn * r);
        grad_reset[i] = T::from_f32(dn * s * r * (1.0 - r));
        grad_update[i] = T::from_f32(d * (prev[i] - n) * z * (1.0 - z));
        grad_prev[i] = d * z;
    }
}
