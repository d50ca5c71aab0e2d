//! What a recurrent cell is.

use crate::cpu::slice::Number;

/// A recurrent cell of H units: the formulas of one step, and their derivatives.
///
/// The state of a cell is a row of parts, [H] each. The first is the hidden state, which the gates and the layer above
/// see; the last is the one that the step before hands on without a matrix in between. A GRU has one part that is both,
/// an LSTM two: hidden state and cell state.
pub(super) trait Cell {
    /// Gates, as they are stacked in the weights, [N_GATES H, in_dim] and [N_GATES H, H].
    const N_GATES: usize;
    /// Parts of the state.
    const N_STATES: usize;
    /// Parts of what a step saves for the backward pass.
    const N_SAVED: usize;
    /// Of how many gates, the last ones, the input's share has another gradient than the state's. Of all others they are
    /// added up before anything else is done with them, so that their gradients are equal.
    const N_SEPARATE: usize;

    /// Writes the state, [N_STATES H], and what the backward pass needs, [N_SAVED H].
    fn forward<T: Number>(step: Step<T>, state: &mut [f32], saved: &mut [T]);

    /// Writes the gradients of what the step has read.
    fn backward<T: Number>(step: BackwardStep<T>, grads: StepGrads<T>);
}

/// What a step reads. Before their nonlinearities, its gates are made of a share of the input's, weight_ih x + bias_ih,
/// and one of the state's, weight_hh h + bias_hh. Here the products come without their biases, [N_GATES H] each.
pub(super) struct Step<'a, T> {
    pub(super) input_gates: &'a [T],
    pub(super) state_gates: &'a [T],
    pub(super) bias_ih: &'a [f32],
    pub(super) bias_hh: &'a [f32],
    /// The last part of the state before, [H].
    pub(super) prev: &'a [f32],
}

/// What the backward half of a step reads.
pub(super) struct BackwardStep<'a, T> {
    /// What the forward half has saved, [N_SAVED H].
    pub(super) saved: &'a [T],
    /// The last part of the state before, [H].
    pub(super) prev: &'a [f32],
    /// The state, [N_STATES H], and its gradient.
    pub(super) state: &'a [f32],
    pub(super) grad_state: &'a [f32],
}

/// What the backward half of a step writes.
pub(super) struct StepGrads<'a, T> {
    /// The gradient of the state's share of the gates, [N_GATES H].
    pub(super) gates: &'a mut [T],
    /// That of the input's share of the last gates, [N_SEPARATE H].
    pub(super) separate: &'a mut [T],
    /// That of the last part of the state before, [H], leaving out what reaches it through the gates.
    pub(super) prev: &'a mut [f32],
}

/// A row as `N` equal parts.
#[inline(always)]
pub(super) fn parts<const N: usize, T>(row: &[T]) -> [&[T]; N] {
    let h = row.len() / N;
    std::array::from_fn(|i| &row[i * h..][..h])
}

/// A row as `N` equal parts, to be changed.
#[inline(always)]
pub(super) fn parts_mut<const N: usize, T>(row: &mut [T]) -> [&mut [T]; N] {
    let h = row.len() / N;
    let mut rest = row;
    std::array::from_fn(|_| rest.split_off_mut(..h).expect("a row has as many parts"))
}
