//! One direction of a recurrent layer over a tree of steps, forward and backward.

use std::marker::PhantomData;

use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::baseline::cpu::cell::{BackwardStep, Cell, Step, StepGrads};
use crate::baseline::cpu::gradients::{add_grad, add_product, grad_of};
use crate::baseline::cpu::linear::prepared_weight;
use crate::baseline::cpu::sums::{add_rows, column_sums};
use crate::baseline::cpu::tree::Tree;
use crate::cpu::kernels;
use crate::cpu::slice::{Number, from_padded_rows, from_rows, padded, values, values_mut};

/// What a layer reads from one source: one row for each node.
pub(super) struct Inputs<'a> {
    pub(super) values: &'a Tensor, // [rows, E], padded
    pub(super) rows: Vec<usize>,   // for each node
}

/// One direction of a layer of cells `C`, with matrix products of type `T`. Its inputs, of length E, are the rows of
/// all sources side by side.
pub(super) struct RecurrentLayer<'a, T, C> {
    /// weight_ih, weight_hh, bias_ih, bias_hh.
    parameters: &'a [Tensor; 4],
    weight_ih: Tensor, // [G H, E] of G gates
    weight_hh: Tensor, // [G H, H]
    hid_dim: usize,
    kinds: PhantomData<(T, C)>,
}

/// The states of all nodes. Each is a row of the cell's parts, starting with the hidden state, [H].
pub(super) struct States {
    values: Vec<f32>, // [nodes, S H], of S parts
    row_len: usize,   // S H
}

impl States {
    /// The state of a node, [S H].
    pub(super) fn of(&self, node: usize) -> &[f32] {
        &self.values[node * self.row_len..][..self.row_len]
    }

    /// The number of nodes.
    pub(super) fn len(&self) -> usize {
        self.values.len() / self.row_len
    }
}

/// A forward pass of a layer.
pub(super) struct LayerPass<T> {
    pub(super) states: States,
    /// What the cells of each level save for the backward pass, [n, N_SAVED H] for n nodes.
    saved: Vec<Vec<T>>,
}

impl<'a, T: Number, C: Cell> RecurrentLayer<'a, T, C> {
    /// A layer with these parameters: weight_ih, weight_hh, bias_ih, bias_hh.
    pub(super) fn new(parameters: &'a [Tensor; 4]) -> RecurrentLayer<'a, T, C> {
        let [weight_ih, weight_hh, ..] = parameters;
        RecurrentLayer {
            parameters,
            weight_ih: prepared_weight::<T>(weight_ih, 1.0).0,
            weight_hh: prepared_weight::<T>(weight_hh, 1.0).0,
            hid_dim: weight_hh.size()[1] as usize,
            kinds: PhantomData,
        }
    }

    pub(super) fn hid_dim(&self) -> usize {
        self.hid_dim
    }

    /// Computes the states of all nodes. What the backward pass needs is kept only if `train` is set.
    pub(super) fn forward(&self, tree: &Tree, inputs: &[Inputs], train: bool) -> LayerPass<T> {
        let h = self.hid_dim;
        let (n_gates, n_states, n_saved) = (C::N_GATES * h, C::N_STATES * h, C::N_SAVED * h);
        let (input_gates, rows) = self.input_gates(inputs); // [rows, G H], [nodes]
        let input_gates = values::<T>(&input_gates);
        let biases = [2, 3].map(|i| self.parameters[i].detach());
        let [bias_ih, bias_hh] = [&biases[0], &biases[1]].map(values::<f32>); // [G H]

        let initial = vec![0f32; n_states];
        let mut states = vec![0f32; tree.len() * n_states];
        let mut levels: Vec<Vec<T>> = Vec::new();
        for t in 0..tree.n_levels() {
            let nodes = tree.level(t);
            let (earlier, rest) = states.split_at_mut(nodes.start * n_states);
            let level_states = &mut rest[..nodes.len() * n_states];
            let prev_of = |node: usize| match t {
                0 => &initial[..],
                _ => &earlier[tree.parent(node) * n_states..][..n_states],
            };
            let prev_hidden = from_padded_rows::<T>(nodes.len(), h, |i, row| {
                kernels::write_scaled(row, 1.0, &prev_of(nodes.start + i)[..h])
            }); // [n, H], padded
            let state_gates = prev_hidden.mm(&self.weight_hh.tr()); // [n, G H], padded

            // Outside training, nothing needs what the previous level saved, so this one reuses its memory.
            let unused = if train { None } else { levels.pop() };
            let mut saved = unused.unwrap_or_default();
            saved.resize(nodes.len() * n_saved, T::default());
            level_states
                .par_chunks_mut(n_states)
                .zip(saved.par_chunks_mut(n_saved))
                .zip(values::<T>(&state_gates).par_chunks(n_gates))
                .zip(nodes.clone())
                .for_each(|(((state, saved), state_gates), node)| {
                    let input_gates = &input_gates[rows[node] * n_gates..][..n_gates];
                    let prev = &prev_of(node)[n_states - h..];
                    C::forward(Step { input_gates, state_gates, bias_ih, bias_hh, prev }, state, saved);
                });
            levels.push(saved);
        }
        LayerPass { states: States { values: states, row_len: n_states }, saved: levels }
    }

    /// Returns the products of the gates' input terms, [rows, G H], possibly padded, and for each node the row that it
    /// uses.
    fn input_gates(&self, inputs: &[Inputs]) -> (Tensor, Vec<usize>) {
        let weights = by_source(&self.weight_ih, inputs);
        let mut products: Vec<Tensor> =
            inputs.iter().zip(weights).map(|(inputs, weight)| inputs.values.mm(&weight.tr())).collect();
        if let [only] = inputs {
            return (products.remove(0), only.rows.clone());
        }
        let (n_nodes, n_gates) = (inputs[0].rows.len(), C::N_GATES * self.hid_dim);
        let shares: Vec<(&[T], &[usize])> =
            products.iter().zip(inputs).map(|(product, inputs)| (values::<T>(product), &inputs.rows[..])).collect();
        let sums = from_rows::<T>(&[n_nodes as i64, n_gates as i64], n_gates, |node, into| {
            let mut sum = vec![0f32; n_gates];
            for (product, rows) in &shares {
                kernels::add_scaled(&mut sum, 1.0, &product[rows[node] * n_gates..][..n_gates]);
            }
            kernels::write_scaled(into, 1.0, &sum)
        });
        (sums, (0..n_nodes).collect())
    }

    /// Adds to the gradients of the parameters, given the gradients of the last m nodes' hidden states, [m, H] float32;
    /// those of the other nodes are zero. Returns the gradients of the inputs, [rows, E], padded.
    pub(super) fn backward(
        &self,
        tree: &Tree,
        inputs: &[Inputs],
        pass: &LayerPass<T>,
        grad_hidden: &Tensor,
    ) -> Vec<Tensor> {
        let h = self.hid_dim;
        let (n_gates, n_separate) = (C::N_GATES * h, C::N_SEPARATE * h);
        // Additional rows of zeros pad the products of the last level and of all levels.
        let n_rows = padded::<T>(tree.len()).max(tree.last_level().start + padded::<T>(tree.last_level().len()));
        let mut grad_gates = Tensor::zeros([n_rows as i64, n_gates as i64], (T::KIND, Device::Cpu));
        let mut grad_separate = Tensor::zeros([tree.len() as i64, n_separate as i64], (T::KIND, Device::Cpu));
        self.backward_through_time(tree, pass, grad_hidden, &mut grad_gates, &mut grad_separate);

        let [weight_ih, weight_hh, bias_ih, bias_hh] = self.parameters;
        let grad_gates = grad_gates.narrow(0, 0, padded::<T>(tree.len()) as i64); // [nodes, G H], padded
        let initial = vec![0f32; h];
        let prev_hidden = from_padded_rows::<T>(tree.len(), h, |node, row| {
            let prev = if tree.level(0).contains(&node) { &initial } else { pass.states.of(tree.parent(node)) };
            kernels::write_scaled(row, 1.0, &prev[..h])
        }); // [nodes, H], padded
        add_product::<T>(&mut grad_of(weight_hh), &grad_gates.tr().mm(&prev_hidden));
        // The input and hidden terms have the same gradients, except those of the separate gates.
        let n_shared = n_gates - n_separate;
        let grad_bias_hh = column_sums::<T>(&grad_gates); // [G H]
        let grad_separate_bias = column_sums::<T>(&grad_separate); // [N_SEPARATE H]
        add_grad(bias_ih, &Tensor::cat(&[grad_bias_hh.narrow(0, 0, n_shared as i64), grad_separate_bias], 0));
        add_grad(bias_hh, &grad_bias_hh);

        let (grad_gates, grad_separate) = (values::<T>(&grad_gates), values::<T>(&grad_separate));
        let weights = by_source(&self.weight_ih, inputs).into_iter().zip(by_source(&grad_of(weight_ih), inputs));
        let of_source = |(Inputs { values, rows }, (weight, mut grad_weight)): (&Inputs, (Tensor, Tensor))| {
            // The gradients of the input terms, summed over the nodes that read each row.
            let mut readers = vec![Vec::new(); values.size()[0] as usize];
            rows.iter().enumerate().for_each(|(node, &row)| readers[row].push(node));
            let grad_input_gates = from_rows::<T>(&[readers.len() as i64, n_gates as i64], n_gates, |row, into| {
                let (mut sum, nodes) = (vec![0f32; n_gates], &readers[row]);
                add_rows(&mut sum, 0..nodes.len(), &|sum, i| {
                    let (shared, separate) = sum.split_at_mut(n_shared);
                    kernels::add_scaled(shared, 1.0, &grad_gates[nodes[i] * n_gates..][..n_shared]);
                    kernels::add_scaled(separate, 1.0, &grad_separate[nodes[i] * n_separate..][..n_separate]);
                });
                kernels::write_scaled(into, 1.0, &sum)
            }); // [rows, G H], padded
            add_product::<T>(&mut grad_weight, &grad_input_gates.tr().mm(values));
            grad_input_gates.mm(&weight) // [rows, E], padded
        };
        inputs.iter().zip(weights).map(of_source).collect()
    }

    /// Writes the gradients of all nodes' pre-activations: of the hidden terms, [nodes, G H], and of the input terms
    /// where they differ, [nodes, N_SEPARATE H].
    fn backward_through_time(
        &self,
        tree: &Tree,
        pass: &LayerPass<T>,
        grad_hidden: &Tensor,
        grad_gates: &mut Tensor,
        grad_separate: &mut Tensor,
    ) {
        let h = self.hid_dim;
        let (n_gates, n_states, n_separate) = (C::N_GATES * h, C::N_STATES * h, C::N_SEPARATE * h);
        let LayerPass { states, saved } = pass;
        let initial = vec![0f32; n_states];
        let first = tree.len() - grad_hidden.size()[0] as usize; // The node of the first row of `grad_hidden`.
        let grad_hidden = values::<f32>(grad_hidden);
        // From the nodes of the next level: the gradients of the last parts of their parents' states, [n, H], and of
        // their parents' hidden states through the gates.
        let mut after: Option<(Vec<f32>, Tensor)> = None;
        for (t, saved) in saved.iter().enumerate().rev() {
            let nodes = tree.level(t);
            let mut grad_states = vec![0f32; nodes.len() * n_states];
            let rows = grad_states.par_chunks_mut(n_states).zip(tree.children(t)).zip(nodes.clone());
            let children_grads =
                after.as_ref().map(|(grad_prev, through_gates)| (grad_prev, values::<T>(through_gates)));
            rows.for_each(|((grad, children), node)| {
                if let Some((grad_prev, through_gates)) = children_grads {
                    add_rows(grad, children.start - nodes.end..children.end - nodes.end, &|grad, child| {
                        kernels::add_scaled(&mut grad[n_states - h..], 1.0, &grad_prev[child * h..][..h]);
                        kernels::add_scaled(&mut grad[..h], 1.0, &through_gates[child * h..][..h]);
                    });
                }
                if let Some(row) = node.checked_sub(first) {
                    kernels::add_scaled(&mut grad[..h], 1.0, &grad_hidden[row * h..][..h]);
                }
            });

            let mut grad_prev = vec![0f32; nodes.len() * h];
            values_mut::<T>(grad_gates)[nodes.start * n_gates..nodes.end * n_gates]
                .par_chunks_mut(n_gates)
                .zip(rows_mut(&mut values_mut::<T>(grad_separate)[nodes.start * n_separate..], n_separate, nodes.len()))
                .zip(grad_prev.par_chunks_mut(h))
                .zip(saved.par_chunks(C::N_SAVED * h))
                .zip(grad_states.par_chunks(n_states))
                .zip(nodes.clone())
                .for_each(|(((((gates, separate), grad_prev), saved), grad_state), node)| {
                    let prev = if t == 0 { &initial } else { states.of(tree.parent(node)) };
                    let prev = &prev[n_states - h..];
                    let step = BackwardStep { saved, prev, state: states.of(node), grad_state };
                    C::backward(step, StepGrads { gates, separate, prev: grad_prev });
                });
            if t > 0 {
                // Padded with rows of the next level, whose values don't matter.
                let gates = grad_gates.narrow(0, nodes.start as i64, padded::<T>(nodes.len()) as i64);
                after = Some((grad_prev, gates.mm(&self.weight_hh))); // [n, H], padded
            }
        }
    }
}

/// The columns of weight_ih, or of its gradient, that belong to each source: views, [G H, E].
fn by_source(weight_ih: &Tensor, inputs: &[Inputs]) -> Vec<Tensor> {
    let mut first = 0;
    let part = |inputs: &Inputs| {
        let (start, dim) = (first, inputs.values.size()[1]);
        first += dim;
        weight_ih.narrow(1, start, dim)
    };
    inputs.iter().map(part).collect()
}

/// The first `n` rows of a matrix, which may have no columns.
fn rows_mut<T>(values: &mut [T], columns: usize, n: usize) -> Vec<&mut [T]> {
    let mut rest = values;
    (0..n).map(|_| rest.split_off_mut(..columns).expect("a matrix has all of its rows")).collect()
}
