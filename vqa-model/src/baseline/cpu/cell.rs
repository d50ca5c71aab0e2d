//! The trait of recurrent cells.

use crate::cpu::slice::Number;

/// A recurrent cell of H units: the formulas of one step, and their derivatives.
///
/// The state of a cell is a row of parts, [H] each. The first is the hidden state, which the gates and the layer above
/// read; the last is the one that is carried from step to step without a matrix in between. A GRU has a single part
/// that is both, an LSTM has two: the hidden state and the cell state.
///
/// The pre-activation of a gate is the sum of an input term, weight_ih x + bias_ih, and a hidden term,
/// weight_hh h + bias_hh.
pub(super) trait Cell {
    /// The number of gates, which are stacked in the weights, [N_GATES H, in_dim] and [N_GATES H, H].
    const N_GATES: usize;
    /// The number of parts of the state.
    const N_STATES: usize;
    /// The number of parts, [H] each, that a step saves for the backward pass.
    const N_SAVED: usize;
    /// The number of gates, the last ones, whose input and hidden terms have different gradients. The terms of all
    /// other gates are only ever used as a sum, so their gradients are equal.
    const N_SEPARATE: usize;

    /// Writes the state, [N_STATES H], and what the backward pass needs, [N_SAVED H].
    fn forward<T: Number>(step: Step<T>, state: &mut [f32], saved: &mut [T]);

    /// Writes the gradients of what the step read.
    fn backward<T: Number>(step: BackwardStep<T>, grads: StepGrads<T>);
}

/// What a step reads: the products of the gates' input and hidden terms, [N_GATES H] each, and separately their
/// biases.
pub(super) struct Step<'a, T> {
    pub(super) input_gates: &'a [T],
    pub(super) state_gates: &'a [T],
    pub(super) bias_ih: &'a [f32],
    pub(super) bias_hh: &'a [f32],
    /// The last part of the previous state, [H].
    pub(super) prev: &'a [f32],
}

/// What the backward pass of a step reads.
pub(super) struct BackwardStep<'a, T> {
    /// What the forward pass saved, [N_SAVED H].
    pub(super) saved: &'a [T],
    /// The last part of the previous state, [H].
    pub(super) prev: &'a [f32],
    /// The state, [N_STATES H], and its gradient.
    pub(super) state: &'a [f32],
    pub(super) grad_state: &'a [f32],
}

/// What the backward pass of a step writes.
pub(super) struct StepGrads<'a, T> {
    /// The gradient of the gates' hidden terms, [N_GATES H].
    pub(super) gates: &'a mut [T],
    /// The gradient of the last gates' input terms, [N_SEPARATE H].
    pub(super) separate: &'a mut [T],
    /// The gradient of the last part of the previous state, [H], without what reaches it through the gates.
    pub(super) prev: &'a mut [f32],
}

/// Splits a row into `N` equal parts.
#[inline(always)]
pub(super) fn parts<const N: usize, T>(row: &[T]) -> [&[T]; N] {
    let h = row.len() / N;
    std::array::from_fn(|i| &row[i * h..][..h])
}

/// Splits a row into `N` equal parts, mutably.
#[inline(always)]
pub(super) fn parts_mut<const N: usize, T>(row: &mut [T]) -> [&mut [T]; N] {
    let h = row.len() / N;
    let mut rest = row;
    std::array::from_fn(|_| rest.split_off_mut(..h).expect("a row has as many parts"))
}
