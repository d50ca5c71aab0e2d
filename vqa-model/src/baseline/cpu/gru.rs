//! A GRU over a prefix tree, forward and backward.

use std::marker::PhantomData;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::baseline::config::{LanguageModelConfig, RnnKind};
use crate::baseline::cpu::gradients::{add_grad, grad_of};
use crate::baseline::cpu::kernels;
use crate::baseline::cpu::kernels::GruInput;
use crate::baseline::cpu::linear::prepared_weight;
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::question_encoder::QuestionEncoder;
use crate::baseline::cpu::slice::{Number, from_rows, from_zeros, values, values_mut};
use crate::baseline::cpu::sums::add_rows;
use crate::baseline::language_model::{QuestionEmbedding, WordEmbedding};

/// Whether this network is written out: a GRU of one layer and one direction.
pub(super) fn serves(config: &LanguageModelConfig) -> bool {
    config.rnn_type == RnnKind::Gru && config.n_layers == 1 && !config.bidirectional
}

/// Rows that a matrix of a product should have at least: with fewer than 16, libtorch's product of bfloat16
/// rearranges the whole weight first. Further rows change nothing in the others.
fn min_rows<T: Number>() -> usize {
    if T::KIND == Kind::Float { 0 } else { 16 }
}

/// A word embedding and a GRU of one layer after it, in a step whose matrix products are of type `T`.
pub(super) struct Gru<'a, T> {
    embedding: &'a WordEmbedding,
    /// weight_ih, weight_hh, bias_ih, bias_hh.
    parameters: [&'a Tensor; 4],
    weight_ih: Tensor, // [3 H, E]
    weight_hh: Tensor, // [3 H, H]
    number: PhantomData<T>,
}

/// What the backward pass needs of a forward pass.
pub(super) struct GruSaved<T> {
    vectors: Tensor,  // [words, E], of the distinct words
    states: Vec<f32>, // [nodes, H]
    levels: Vec<SavedLevel<T>>,
}

/// What the backward pass needs of a level of n nodes.
struct SavedLevel<T> {
    prev_states: Tensor, // [n, H], the state before each node
    gates: Vec<T>,       // [n, 4 H]
}

impl<'a, T: Number> Gru<'a, T> {
    pub(super) fn new(embedding: &'a WordEmbedding, rnn: &'a QuestionEmbedding) -> Gru<'a, T> {
        let [weight_ih, weight_hh, bias_ih, bias_hh] = &rnn.weights[..] else { panic!("one layer, one direction") };
        Gru {
            embedding,
            parameters: [weight_ih, weight_hh, bias_ih, bias_hh],
            weight_ih: prepared_weight::<T>(weight_ih, 1.0).0,
            weight_hh: prepared_weight::<T>(weight_hh, 1.0).0,
            number: PhantomData,
        }
    }

    fn hid_dim(&self) -> usize {
        self.weight_hh.size()[1] as usize
    }
}

impl<T: Number> QuestionEncoder<T> for Gru<'_, T> {
    type Saved = GruSaved<T>;

    fn forward(&self, tree: &PrefixTree, train: bool) -> (Tensor, GruSaved<T>) {
        let h = self.hid_dim();
        let words = Tensor::from_slice(tree.words());
        let vectors = self.embedding.weight.detach().index_select(0, &words).to_kind(T::KIND); // [words, E]
        let word_gates = vectors.mm(&self.weight_ih.tr()); // [words, 3 H]
        let word_gates = values::<T>(&word_gates);
        let biases = [2, 3].map(|i| self.parameters[i].detach());
        let [bias_ih, bias_hh] = [&biases[0], &biases[1]].map(values::<f32>); // [3 H]

        let initial = vec![0f32; h];
        let mut states = vec![0f32; tree.len() * h];
        let mut levels: Vec<SavedLevel<T>> = Vec::new();
        for t in 0..tree.n_levels() {
            let nodes = tree.level(t);
            let (earlier, rest) = states.split_at_mut(nodes.start * h);
            let level_states = &mut rest[..nodes.len() * h];
            let prev_of = |node: usize| match t {
                0 => &initial[..],
                _ => &earlier[tree.parent(node) * h..][..h],
            };
            let n_rows = nodes.len().max(min_rows::<T>());
            let prev_states = from_rows::<T>(&[n_rows as i64, h as i64], h, |i, row| {
                let prev = if i < nodes.len() { prev_of(nodes.start + i) } else { &initial };
                kernels::write_scaled(row, 1.0, prev)
            }); // [n_rows, H]
            let state_gates = prev_states.mm(&self.weight_hh.tr()); // [n_rows, 3 H]

            // Without training, nothing needs the gates of the level before any more: this one reuses their memory.
            let unused = if train { None } else { levels.pop() };
            let mut gates = unused.map_or_else(Vec::new, |level| level.gates);
            gates.resize(nodes.len() * 4 * h, T::default());
            level_states
                .par_chunks_mut(h)
                .zip(gates.par_chunks_mut(4 * h))
                .zip(values::<T>(&state_gates).par_chunks(3 * h))
                .zip(nodes.clone())
                .for_each(|(((state, gates), state_gates), node)| {
                    let word_gates = &word_gates[tree.token(node) * 3 * h..][..3 * h];
                    let input = GruInput { word_gates, state_gates, bias_ih, bias_hh, prev_state: prev_of(node) };
                    kernels::gru_forward(input, state, gates);
                });
            levels.push(SavedLevel { prev_states: prev_states.narrow(0, 0, nodes.len() as i64), gates });
        }
        let last = tree.level(tree.n_levels() - 1);
        let leaves = Tensor::from_slice(&states[last.start * h..]).view([last.len() as i64, h as i64]); // [L, H]
        (leaves.to_kind(T::KIND), GruSaved { vectors, states, levels })
    }

    fn backward(&self, tree: &PrefixTree, saved: GruSaved<T>, grad_states: &Tensor) {
        let h = self.hid_dim();
        let GruSaved { vectors, states, levels } = saved;
        let initial = vec![0f32; h];
        // The gradients of all nodes' gates before their nonlinearities: [nodes, 3 H] of the state's share, which
        // for reset and update are those of the word's share too; and [nodes, H] of the word's share of new.
        let n_rows = tree.len() + min_rows::<T>();
        let mut grad_gates = Tensor::zeros([n_rows as i64, 3 * h as i64], (T::KIND, Device::Cpu));
        let mut grad_news = Tensor::zeros([tree.len() as i64, h as i64], (T::KIND, Device::Cpu));
        let mut grad_level = grad_states.shallow_clone(); // [n, H] float32, of the level's states
        for (t, level) in levels.iter().enumerate().rev() {
            let nodes = tree.level(t);
            let prev_of = |node: usize| match t {
                0 => &initial[..],
                _ => &states[tree.parent(node) * h..][..h],
            };
            let mut grad_prev = vec![0f32; nodes.len() * h]; // [n, H], but for what comes through the gates
            values_mut::<T>(&mut grad_gates)[nodes.start * 3 * h..nodes.end * 3 * h]
                .par_chunks_mut(3 * h)
                .zip(values_mut::<T>(&mut grad_news)[nodes.start * h..nodes.end * h].par_chunks_mut(h))
                .zip(grad_prev.par_chunks_mut(h))
                .zip(level.gates.par_chunks(4 * h))
                .zip(values::<f32>(&grad_level).par_chunks(h))
                .zip(nodes.clone())
                .for_each(|(((((grad_gates, grad_new), grad_prev), gates), grad_state), node)| {
                    kernels::gru_backward(gates, prev_of(node), grad_state, grad_gates, grad_new, grad_prev);
                });
            if t == 0 {
                break;
            }
            let n_rows = nodes.len().max(min_rows::<T>()) as i64;
            let through_gates = grad_gates.narrow(0, nodes.start as i64, n_rows).mm(&self.weight_hh); // [n_rows, H]
            let through_gates = values::<T>(&through_gates);
            let children = tree.children(t - 1);
            grad_level = from_zeros::<f32>(&[children.len() as i64, h as i64], |rows| {
                rows.par_chunks_mut(h).zip(children).for_each(|(row, children)| {
                    add_rows(row, children.start - nodes.start..children.end - nodes.start, &|row, child| {
                        kernels::add_scaled(row, 1.0, &grad_prev[child * h..][..h]);
                        kernels::add_scaled(row, 1.0, &through_gates[child * h..][..h]);
                    });
                });
            });
        }

        let [weight_ih, weight_hh, bias_ih, bias_hh] = self.parameters;
        let grad_gates = grad_gates.narrow(0, 0, tree.len() as i64); // [nodes, 3 H]
        let prev_states: Vec<&Tensor> = levels.iter().map(|level| &level.prev_states).collect();
        let prev_states = Tensor::cat(&prev_states, 0); // [nodes, H]
        add_grad(weight_hh, &grad_gates.tr().mm(&prev_states));
        add_grad(bias_hh, &grad_gates.sum_dim_intlist(0, false, Kind::Float));

        // The word's share, added up over the nodes of each word.
        let (grad_gates, grad_news) = (values::<T>(&grad_gates), values::<T>(&grad_news));
        let nodes_of_words = tree.nodes_of_words();
        let grad_words = from_zeros::<f32>(&[nodes_of_words.len() as i64, 3 * h as i64], |rows| {
            rows.par_chunks_mut(3 * h).zip(nodes_of_words).for_each(|(row, nodes)| {
                add_rows(row, 0..nodes.len(), &|row, i| {
                    let (reset_update, new) = row.split_at_mut(2 * h);
                    kernels::add_scaled(reset_update, 1.0, &grad_gates[nodes[i] * 3 * h..][..2 * h]);
                    kernels::add_scaled(new, 1.0, &grad_news[nodes[i] * h..][..h]);
                });
            });
        }); // [words, 3 H]
        add_grad(bias_ih, &grad_words.sum_dim_intlist(0, false, Kind::Float));
        let grad_words = grad_words.to_kind(T::KIND);
        add_grad(weight_ih, &grad_words.tr().mm(&vectors));
        let grad_vectors = grad_words.mm(&self.weight_ih).to_kind(Kind::Float); // [words, E]
        if let Ok(padding) = tree.words().binary_search(&self.embedding.padding) {
            let _ = grad_vectors.get(padding as i64).zero_();
        }
        let words = Tensor::from_slice(tree.words());
        let _ = grad_of(&self.embedding.weight).index_add_(0, &words, &grad_vectors);
    }
}
