//! A layer of the recurrent network in one direction, step by step, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::config::RnnKind;
use crate::baseline::gpu::column_sums::ColumnSums;
use crate::baseline::gpu::kernels::{Kernels, int, or_null};
use crate::feed::KernelArgument;

/// Which numbers, of how many states, in what order.
#[derive(Clone, Copy)]
pub(super) struct Unrolling {
    pub(super) cell: RnnKind,
    pub(super) n_steps: i64,     // T
    pub(super) n_questions: i64, // B
    pub(super) dim: i64,         // H
    /// Whether the last word is read first.
    pub(super) is_backward: bool,
}

impl Unrolling {
    /// Vectors of H that a product with weights has: a GRU has three gates, an LSTM four.
    fn n_gates(&self) -> i64 {
        if self.cell == RnnKind::Lstm { 4 } else { 3 }
    }

    /// The position that step `step` reads.
    fn position(&self, step: i64) -> i64 {
        if self.is_backward { self.n_steps - 1 - step } else { step }
    }

    /// The position that is read last.
    pub(super) fn last(&self) -> i64 {
        self.position(self.n_steps - 1)
    }

    /// Numbers from one gradient of a product to the next. Those of a GRU's candidate differ by where they come from, the
    /// input or the state before: first is that by the input, then reset, update, and that by the state.
    fn n_grads(&self) -> i64 {
        4 * self.dim
    }

    /// Of [positions, 4 H], those by the input: of a GRU, the candidate's comes first.
    pub(super) fn by_input(&self, grads: &Tensor) -> Tensor {
        grads.narrow(1, 0, self.n_gates() * self.dim)
    }

    /// Of [positions, 4 H], those by the state before, as in the weights.
    fn by_state(&self, grads: &Tensor) -> Tensor {
        let n = self.n_gates() * self.dim;
        grads.narrow(1, self.n_grads() - n, n)
    }
}

/// The parameters of a direction: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
pub(super) struct Parameters<'a> {
    pub(super) weight_ih: &'a Tensor, // [gates H, E]
    pub(super) weight_hh: &'a Tensor, // [gates H, H]
    pub(super) bias_ih: &'a Tensor,   // [gates H]
    pub(super) bias_hh: &'a Tensor,   // [gates H]
}

/// A forward pass of a layer in one direction, with what its backward pass needs. In bfloat16 where nothing else is said.
pub(super) struct DirectionPass<'a> {
    pub(super) unrolling: Unrolling,
    pub(super) parameters: Parameters<'a>,
    weight_hh: Tensor,     // [gates H, H]
    from_input: Tensor,    // [R, gates H], or [T B, gates H]
    from_state: Tensor,    // [T, B, gates H], not where nothing was read before
    states: Tensor,        // [T, B, H], rows of a layer's output
    cells: Option<Tensor>, // [T, B, H] float32, of an LSTM
    rows: Option<Tensor>,  // [T, B] int, which row of `from_input` is read
}

impl<'a> DirectionPass<'a> {
    /// Writes the states to [T, B, H], whose rows need not follow each other at once. `from_input` are the products with
    /// `weight_ih`, a row for each of `rows`, or for each position if there are none.
    pub(super) fn forward(
        kernels: &Kernels,
        unrolling: Unrolling,
        parameters: Parameters<'a>,
        (from_input, rows): (Tensor, Option<&Tensor>),
        states: Tensor,
    ) -> DirectionPass<'a> {
        let Unrolling { cell, n_steps, n_questions, dim, .. } = unrolling;
        let options = (Kind::BFloat16, states.device());
        let from_state = Tensor::empty([n_steps, n_questions, unrolling.n_gates() * dim], options);
        let cells =
            (cell == RnnKind::Lstm).then(|| Tensor::empty([n_steps, n_questions, dim], (Kind::Float, states.device())));
        let weight_hh = kernels.to_bf16(parameters.weight_hh);
        let rows = rows.map(Tensor::shallow_clone);
        let pass = DirectionPass { unrolling, parameters, weight_hh, from_input, from_state, states, cells, rows };
        for step in 0..n_steps {
            if step > 0 {
                let before = pass.states_at(step - 1);
                let _ = before.mm_out(&pass.from_state.get(unrolling.position(step)), &pass.weight_hh.tr());
            }
            pass.step_forward(kernels, step);
        }
        pass
    }

    /// The states after a step, [B, H].
    fn states_at(&self, step: i64) -> Tensor {
        self.states.get(self.unrolling.position(step))
    }

    /// Of a tensor [T, B, ..], what belongs to the step before; nothing before the first.
    fn before(&self, of_steps: &Tensor, step: i64) -> Option<Tensor> {
        (step > 0).then(|| of_steps.get(self.unrolling.position(step - 1)))
    }

    /// What a kernel is told of the step's inputs: products of inputs, the rows that are read, products of states, biases.
    fn with_inputs<T>(&self, step: i64, run: impl FnOnce([KernelArgument; 5]) -> T) -> T {
        let position = self.unrolling.position(step);
        let from_input = match self.rows {
            Some(_) => self.from_input.shallow_clone(),
            None => self.from_input.narrow(0, position * self.unrolling.n_questions, self.unrolling.n_questions),
        };
        let rows = self.rows.as_ref().map(|rows| rows.get(position));
        let from_state = (step > 0).then(|| self.from_state.get(position));
        run([
            KernelArgument::Bf16s(&from_input),
            or_null(rows.as_ref(), KernelArgument::Ints),
            or_null(from_state.as_ref(), KernelArgument::Bf16s),
            KernelArgument::Floats(self.parameters.bias_ih),
            KernelArgument::Floats(self.parameters.bias_hh),
        ])
    }

    fn step_forward(&self, kernels: &Kernels, step: i64) {
        let Unrolling { n_questions, dim, .. } = self.unrolling;
        let (states, before) = (self.states_at(step), self.before(&self.states, step));
        let stride = states.stride()[0];
        let sizes = [n_questions, dim, stride].map(int);
        let after = KernelArgument::Bf16Rows(&states);
        let n = n_questions * dim / 8;
        self.with_inputs(step, |inputs| match &self.cells {
            None => {
                let before = or_null(before.as_ref(), KernelArgument::Bf16Rows);
                kernels.for_each("gru_forward", n, &[&inputs[..], &[before, after], &sizes].concat());
            }
            Some(cells) => {
                let cells_before = self.before(cells, step);
                let cells_before = or_null(cells_before.as_ref(), KernelArgument::Floats);
                let cells = cells.get(self.unrolling.position(step));
                let cells = [cells_before, KernelArgument::Floats(&cells)];
                kernels.for_each("lstm_forward", n, &[&inputs[..], &cells, &[after], &sizes].concat());
            }
        });
    }

    /// The gradients of all products, [T B, 4 H], given those of the states: of the last one, [B, H] float32, and those that
    /// a layer above has of all, [T, B, H], whose rows need not follow each other at once. Adds to those of `weight_hh`, and
    /// notes those of the biases.
    pub(super) fn backward(
        &self,
        kernels: &Kernels,
        grad_last: Tensor,
        above: Option<&Tensor>,
        sums: &mut ColumnSums,
    ) -> Tensor {
        let Unrolling { cell, n_steps, n_questions, dim, .. } = self.unrolling;
        let options = (Kind::BFloat16, self.states.device());
        let grads = Tensor::empty([n_steps, n_questions, self.unrolling.n_grads()], options);
        let by_product = Tensor::empty([n_questions, dim], options);
        let carried_cell = (cell == RnnKind::Lstm).then(|| grad_last.zeros_like());
        for step in (0..n_steps).rev() {
            let position = self.unrolling.position(step);
            let of_step = grads.get(position);
            let product = (step + 1 < n_steps).then_some(&by_product);
            let above = above.map(|above| above.get(position));
            let above_stride = above.as_ref().map_or(0, |above| above.stride()[0]);
            self.step_backward(
                kernels,
                step,
                &grad_last,
                carried_cell.as_ref(),
                product,
                (above, above_stride),
                &of_step,
            );
            if step > 0 {
                let _ = self.unrolling.by_state(&of_step).mm_out(&by_product, &self.weight_hh);
            }
        }
        let grads = grads.view([n_steps * n_questions, self.unrolling.n_grads()]);
        self.add_gradients(kernels, &grads, sums);
        grads
    }

    #[allow(clippy::too_many_arguments)]
    fn step_backward(
        &self,
        kernels: &Kernels,
        step: i64,
        carried: &Tensor,
        carried_cell: Option<&Tensor>,
        by_product: Option<&Tensor>,
        (above, above_stride): (Option<Tensor>, i64),
        grads: &Tensor,
    ) {
        let Unrolling { n_questions, dim, .. } = self.unrolling;
        let n = n_questions * dim / 8;
        let from_above = [
            or_null(by_product, KernelArgument::Bf16s),
            or_null(above.as_ref(), KernelArgument::Bf16Rows),
            int(above_stride),
            KernelArgument::Bf16s(grads),
            int(n_questions),
            int(dim),
        ];
        let carried = KernelArgument::Floats(carried);
        self.with_inputs(step, |inputs| match (&self.cells, carried_cell) {
            (Some(cells), Some(carried_cell)) => {
                let before = self.before(cells, step);
                let before = or_null(before.as_ref(), KernelArgument::Floats);
                let after = cells.get(self.unrolling.position(step));
                let own = [before, KernelArgument::Floats(&after), carried, KernelArgument::Floats(carried_cell)];
                kernels.for_each("lstm_backward", n, &[&inputs[..], &own, &from_above].concat());
            }
            _ => {
                let before = self.before(&self.states, step);
                let stride = before.as_ref().map_or(0, |before| before.stride()[0]);
                let own = [or_null(before.as_ref(), KernelArgument::Bf16Rows), carried];
                kernels.for_each("gru_backward", n, &[&inputs[..], &own, &from_above, &[int(stride)]].concat());
            }
        });
    }

    /// Adds to the gradient of `weight_hh`, and notes those of the biases.
    fn add_gradients(&self, kernels: &Kernels, grads: &Tensor, sums: &mut ColumnSums) {
        let Unrolling { cell, n_steps, n_questions, dim, is_backward } = self.unrolling;
        // Of the steps after the first, the states before: neighbours in the order of positions.
        let n = (n_steps - 1) * n_questions;
        if n > 0 {
            let (first_grad, first_state) = if is_backward { (0, n_questions) } else { (n_questions, 0) };
            let states = self.states.reshape([n_steps * n_questions, dim]);
            let by_state = self.unrolling.by_state(grads).narrow(0, first_grad, n);
            let grad = by_state.tr().mm(&states.narrow(0, first_state, n)); // [gates H, H]
            kernels.add_rows(&grad, &self.parameters.weight_hh.grad());
        }
        let [bias_ih, bias_hh] = [self.parameters.bias_ih, self.parameters.bias_hh].map(Tensor::grad);
        if cell == RnnKind::Lstm {
            sums.add(grads, &[&bias_ih, &bias_hh]);
            return;
        }
        let of = |matrix: &Tensor, i: i64| matrix.narrow(1, i * dim, dim);
        let gate = |bias: &Tensor, i: i64| bias.narrow(0, i * dim, dim);
        sums.add(&of(grads, 0), &[&gate(&bias_ih, 2)]);
        sums.add(&of(grads, 1), &[&gate(&bias_ih, 0), &gate(&bias_hh, 0)]);
        sums.add(&of(grads, 2), &[&gate(&bias_ih, 1), &gate(&bias_hh, 1)]);
        sums.add(&of(grads, 3), &[&gate(&bias_hh, 2)]);
    }
}
