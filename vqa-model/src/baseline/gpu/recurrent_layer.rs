//! A layer of the recurrent network in one direction, step by step, forward and backward.

use tch::{Kind, Tensor};

use crate::baseline::config::RnnKind;
use crate::baseline::gpu::column_sums::ColumnSums;
use crate::baseline::gpu::kernels::{Kernels, blocks, int, or_null};
use crate::feed::cuda_kernel::KernelArgument;
use crate::feed::order::BatchOrder;

/// How the hidden states of a direction, of length H, are arranged step by step.
#[derive(Clone, Copy)]
pub(super) struct Unrolling<'a> {
    pub(super) cell: RnnKind,
    pub(super) dim: i64, // H
    /// Whether the last word is read first. Then no two questions share a state.
    pub(super) is_backward: bool,
    pub(super) order: &'a BatchOrder, // T steps of M states in all
}

impl Unrolling<'_> {
    /// How many vectors of length H a product with weights has: a GRU has three gates, an LSTM four.
    fn n_gates(&self) -> i64 {
        if self.cell == RnnKind::Lstm { 4 } else { 3 }
    }

    fn n_steps(&self) -> usize {
        self.order.steps.len()
    }

    /// The rows of [M, ..] that belong to a step of this direction.
    fn of_step(&self, all: &Tensor, step: usize) -> Tensor {
        let read_in = if self.is_backward { self.n_steps() - 1 - step } else { step };
        let first = self.order.steps[..read_in].iter().sum();
        all.narrow(0, first, self.order.steps[read_in])
    }

    /// The rows of [M, ..] that belong to the step before; `None` for the first step.
    fn before(&self, all: &Tensor, step: usize) -> Option<Tensor> {
        (step > 0).then(|| self.of_step(all, step - 1))
    }

    /// The rows of [M, ..] that belong to the last step of this direction.
    pub(super) fn of_last(&self, all: &Tensor) -> Tensor {
        self.of_step(all, self.n_steps() - 1)
    }

    /// Where the children of each of a step's states begin, [states + 1]. If no states are shared, this is the same in
    /// all steps.
    fn child_starts(&self, step: usize) -> Tensor {
        let first = self.order.steps[..step].iter().sum::<i64>() + step as i64;
        self.order.child_starts.narrow(0, first, self.order.steps[step] + 1)
    }

    /// The columns of [M, 4 H] that are gradients of input terms. A GRU's candidate gate comes first, as its input and
    /// hidden terms have different gradients.
    pub(super) fn by_input(&self, grads: &Tensor) -> Tensor {
        grads.narrow(1, 0, self.n_gates() * self.dim)
    }

    /// The columns of [M, 4 H] that are gradients of hidden terms, in the order of the weights.
    fn by_state(&self, grads: &Tensor) -> Tensor {
        let n = self.n_gates() * self.dim;
        grads.narrow(1, 4 * self.dim - n, n)
    }

    /// The rows of all states but the first step's, and the rows of their parents. `None` if there are no such states.
    fn with_parents(&self, of_states: &Tensor, of_parents: &Tensor) -> Option<(Tensor, Tensor)> {
        let n_states = of_states.size()[0];
        let n_first = self.of_step(of_states, 0).size()[0];
        let n = n_states - n_first;
        if n == 0 {
            return None;
        }
        if self.is_backward {
            return Some((of_states.narrow(0, 0, n), of_parents.narrow(0, n_first, n)));
        }
        Some((of_states.narrow(0, n_first, n), of_parents.index_select(0, &self.order.parent_places)))
    }
}

/// The parameters of a direction: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
pub(super) struct Parameters<'a> {
    pub(super) weight_ih: &'a Tensor, // [gates H, E]
    pub(super) weight_hh: &'a Tensor, // [gates H, H]
    pub(super) bias_ih: &'a Tensor,   // [gates H]
    pub(super) bias_hh: &'a Tensor,   // [gates H]
}

/// A forward pass of a layer in one direction, with what its backward pass needs. Tensors are bfloat16 unless another
/// type is named.
pub(super) struct DirectionPass<'a> {
    pub(super) unrolling: Unrolling<'a>,
    pub(super) parameters: Parameters<'a>,
    weight_hh: Tensor,     // [gates H, H]
    from_input: Tensor,    // [R, gates H], or [M, gates H]
    reads_rows: bool,      // whether `from_input` has a row for each row of words
    from_state: Tensor,    // [M, gates H], of all but the last step
    states: Tensor,        // [M, H], whose rows need not be adjacent
    cells: Option<Tensor>, // [M, H] float32, of an LSTM
}

/// The gradients that a step's states get from their children.
struct Children<'a> {
    starts: Tensor,               // [states + 1]
    order: Option<&'a Tensor>,    // the children, if they are not consecutive
    carried: Option<Tensor>,      // [children, H] float32
    carried_cell: Option<Tensor>, // [children, H] float32
    by_product: Option<Tensor>,   // [children, H]
}

impl<'a> DirectionPass<'a> {
    /// Writes the hidden states to `states`, [M, H], whose rows need not be adjacent. `from_input` holds the products
    /// with `weight_ih`: a row for each row of words if `reads_rows`, otherwise for each state.
    pub(super) fn forward(
        kernels: &Kernels,
        unrolling: Unrolling<'a>,
        parameters: Parameters<'a>,
        (from_input, reads_rows): (Tensor, bool),
        states: Tensor,
    ) -> DirectionPass<'a> {
        let Unrolling { cell, dim, .. } = unrolling;
        let (n_states, device) = (states.size()[0], states.device());
        let from_state = Tensor::empty([n_states, unrolling.n_gates() * dim], (Kind::BFloat16, device));
        let cells = (cell == RnnKind::Lstm).then(|| Tensor::empty([n_states, dim], (Kind::Float, device)));
        let weight_hh = kernels.to_bf16(parameters.weight_hh);
        let pass =
            DirectionPass { unrolling, parameters, weight_hh, from_input, reads_rows, from_state, states, cells };
        for step in 0..unrolling.n_steps() {
            pass.step_forward(kernels, step);
            if step + 1 < unrolling.n_steps() {
                let [states, product] = [&pass.states, &pass.from_state].map(|all| unrolling.of_step(all, step));
                let _ = states.mm_out(&product, &pass.weight_hh.tr());
            }
        }
        pass
    }

    /// Calls `run` with a kernel's first arguments: input products, the rows that are read, hidden products, parents,
    /// biases.
    fn with_inputs<T>(&self, step: usize, run: impl FnOnce([KernelArgument; 6]) -> T) -> T {
        let (unrolling, order) = (&self.unrolling, self.unrolling.order);
        let rows = self.reads_rows.then(|| unrolling.of_step(&order.rows, step));
        let from_input = match self.reads_rows {
            true => self.from_input.shallow_clone(),
            false => unrolling.of_step(&self.from_input, step),
        };
        let from_state = unrolling.before(&self.from_state, step);
        let parents = unrolling.of_step(&order.parents, step);
        run([
            KernelArgument::Bf16s(&from_input),
            or_null(rows.as_ref(), KernelArgument::Ints),
            or_null(from_state.as_ref(), KernelArgument::Bf16s),
            KernelArgument::Ints(&parents),
            KernelArgument::Floats(self.parameters.bias_ih),
            KernelArgument::Floats(self.parameters.bias_hh),
        ])
    }

    fn step_forward(&self, kernels: &Kernels, step: usize) {
        let states = self.unrolling.of_step(&self.states, step);
        let sizes = [states.size()[0], self.unrolling.dim, states.stride()[0]].map(int);
        let after = KernelArgument::Bf16Rows(&states);
        // Each thread handles two elements.
        let n = states.numel() as i64 / 2;
        self.with_inputs(step, |inputs| match &self.cells {
            None => {
                let before = self.unrolling.before(&self.states, step);
                let before = or_null(before.as_ref(), KernelArgument::Bf16Rows);
                kernels.for_each("gru_forward", n, &[&inputs[..], &[before, after], &sizes].concat());
            }
            Some(cells) => {
                let before = self.unrolling.before(cells, step);
                let before = or_null(before.as_ref(), KernelArgument::Floats);
                let of_step = self.unrolling.of_step(cells, step);
                let cells = [before, KernelArgument::Floats(&of_step)];
                kernels.for_each("lstm_forward", n, &[&inputs[..], &cells, &[after], &sizes].concat());
            }
        });
    }

    /// Returns the gradients of all pre-activations, [M, 4 H], given the gradients of the hidden states: for the last
    /// layer `grad_last`, of the questions' last states, [B, H] float32, and for the others `above`, of all states,
    /// [M, H], whose rows need not be adjacent. Adds to the gradient of `weight_hh`, and queues those of the biases in
    /// `sums`.
    pub(super) fn backward(
        &self,
        kernels: &Kernels,
        grad_last: Option<Tensor>,
        above: Option<&Tensor>,
        sums: &mut ColumnSums,
    ) -> Tensor {
        let Unrolling { cell, dim, order, .. } = self.unrolling;
        let n_steps = self.unrolling.n_steps();
        let grads = Tensor::empty([self.states.size()[0], 4 * dim], (Kind::BFloat16, self.states.device()));
        let mut children = Children {
            starts: self.unrolling.child_starts(n_steps - 1),
            order: Some(&order.last_questions),
            carried: grad_last,
            carried_cell: None,
            by_product: None,
        };
        for step in (0..n_steps).rev() {
            let of_step = self.unrolling.of_step(&grads, step);
            let above = above.map(|above| self.unrolling.of_step(above, step));
            let carried = Some(self.step_backward(kernels, step, &children, above.as_ref(), &of_step));
            if step > 0 {
                let (carried, carried_cell) = if cell == RnnKind::Lstm { (None, carried) } else { (carried, None) };
                let by_product = Some(self.unrolling.by_state(&of_step).mm(&self.weight_hh));
                let starts = self.unrolling.child_starts(step - 1);
                children = Children { starts, order: None, carried, carried_cell, by_product };
            }
        }
        self.add_gradients(kernels, &grads, sums);
        grads
    }

    /// Writes a step's gradients. Returns the part of their parents' gradients that does not pass through weights,
    /// [states, H] float32.
    fn step_backward(
        &self,
        kernels: &Kernels,
        step: usize,
        children: &Children,
        above: Option<&Tensor>,
        grads: &Tensor,
    ) -> Tensor {
        /// Elements of a state that a block of threads handles.
        const NUMBERS: i64 = 512;
        let (n_states, dim) = (grads.size()[0], self.unrolling.dim);
        let carried_on = Tensor::empty([n_states, dim], (Kind::Float, grads.device()));
        let Children { starts, order, carried, carried_cell, by_product } = children;
        let [carried, carried_cell] =
            [carried, carried_cell].map(|carried| or_null(carried.as_ref(), KernelArgument::Floats));
        let rest = [
            or_null(by_product.as_ref(), KernelArgument::Bf16s),
            KernelArgument::Ints(starts),
            or_null(*order, KernelArgument::Ints),
            or_null(above, KernelArgument::Bf16Rows),
            int(above.map_or(0, |above| above.stride()[0])),
            KernelArgument::Bf16s(grads),
            KernelArgument::Floats(&carried_on),
            int(dim),
        ];
        let n_blocks = [n_states, blocks(dim, NUMBERS)];
        self.with_inputs(step, |inputs| match &self.cells {
            Some(cells) => {
                let before = self.unrolling.before(cells, step);
                let before = or_null(before.as_ref(), KernelArgument::Floats);
                let after = self.unrolling.of_step(cells, step);
                let own = [before, KernelArgument::Floats(&after), carried, carried_cell];
                kernels.for_blocks("lstm_backward", n_blocks, &[&inputs[..], &own, &rest].concat());
            }
            None => {
                let before = self.unrolling.before(&self.states, step);
                let stride = before.as_ref().map_or(0, |before| before.stride()[0]);
                let own = [or_null(before.as_ref(), KernelArgument::Bf16Rows), carried];
                kernels.for_blocks("gru_backward", n_blocks, &[&inputs[..], &own, &rest, &[int(stride)]].concat());
            }
        });
        carried_on
    }

    /// Adds to the gradient of `weight_hh`, and queues those of the biases in `sums`.
    fn add_gradients(&self, kernels: &Kernels, grads: &Tensor, sums: &mut ColumnSums) {
        let Unrolling { cell, dim, .. } = self.unrolling;
        if let Some((grads, parents)) = self.unrolling.with_parents(&self.unrolling.by_state(grads), &self.states) {
            let grad = grads.tr().mm(&parents); // [gates H, H]
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
