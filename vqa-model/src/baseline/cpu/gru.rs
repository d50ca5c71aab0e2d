//! A GRU over a prefix tree, forward and backward.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::baseline::cpu::kernels;
use crate::baseline::cpu::kernels::GruInput;
use crate::baseline::cpu::linear::{add, gradient_of, prepared};
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::slice::{Number, filled, numbers, numbers_mut};
use crate::baseline::language_model::WordEmbedding;

/// Rows of a product with so many that count. With fewer than 16, libtorch's product of bfloat16 rearranges the whole weight.
fn n_rows<T: Number>(n: usize) -> usize {
    if T::KIND == Kind::Float { n } else { n.max(16) }
}

/// A one-layer GRU and the word embedding before it, with their weights as a step's products want them.
pub(super) struct Gru<'a> {
    embedding: &'a WordEmbedding,
    /// weight_ih, weight_hh, bias_ih, bias_hh.
    parameters: [&'a Tensor; 4],
    weight_ih: Tensor, // [3 H, E]
    weight_hh: Tensor, // [3 H, H]
}

/// What a backward pass needs of a level of the tree with n nodes.
struct Level<T> {
    before: Tensor, // [n, H], the state before of each node
    gates: Vec<T>,  // [n, 4 H]
}

/// A forward pass.
pub(super) struct GruPass<T> {
    vectors: Tensor, // [words, E]
    states: Vec<f32>,
    levels: Vec<Level<T>>,
}

impl<'a> Gru<'a> {
    pub(super) fn new<T: Number>(embedding: &'a WordEmbedding, weights: &'a [Tensor]) -> Gru<'a> {
        let [weight_ih, weight_hh, bias_ih, bias_hh] = weights else { panic!("one layer, one direction") };
        Gru {
            embedding,
            parameters: [weight_ih, weight_hh, bias_ih, bias_hh],
            weight_ih: prepared::<T>(weight_ih, 1.0).0,
            weight_hh: prepared::<T>(weight_hh, 1.0).0,
        }
    }

    fn hid_dim(&self) -> usize {
        self.weight_hh.size()[1] as usize
    }

    /// The states of the leaves, [leaves, H], and the pass. It can be gone back if `train`.
    pub(super) fn forward<T: Number>(&self, tree: &PrefixTree, train: bool) -> (Tensor, GruPass<T>) {
        let h = self.hid_dim();
        let words = Tensor::from_slice(tree.words());
        let vectors = self.embedding.weight.detach().index_select(0, &words).to_kind(T::KIND);
        let of_words = vectors.mm(&self.weight_ih.tr()); // [words, 3 H]
        let of_words = numbers::<T>(&of_words);
        let biases = [2, 3].map(|i| self.parameters[i].detach());
        let [bias_ih, bias_hh] = [&biases[0], &biases[1]].map(numbers::<f32>);

        let mut states = vec![0f32; tree.len() * h];
        let mut levels: Vec<Level<T>> = Vec::new();
        let first = vec![0f32; h];
        for t in 0..tree.n_levels() {
            let nodes = tree.level(t);
            let (earlier, rest) = states.split_at_mut(nodes.start * h);
            let level_states = &mut rest[..nodes.len() * h];
            let before_of = |node: usize| match t {
                0 => &first[..],
                _ => &earlier[tree.parent(node) * h..][..h],
            };
            let before = filled::<T>(&[n_rows::<T>(nodes.len()) as i64, h as i64], |rows| {
                rows.par_chunks_mut(h).zip(nodes.clone()).for_each(|(row, node)| {
                    kernels::scaled(before_of(node), 1.0, row);
                });
                rows[nodes.len() * h..].fill(T::default());
            });
            let of_states = before.mm(&self.weight_hh.tr()); // [n, 3 H]
            // Nobody goes back to the level before, unless in training.
            let unused = if train { None } else { levels.pop() };
            let mut gates = unused.map_or_else(Vec::new, |level| level.gates);
            gates.resize(nodes.len() * 4 * h, T::default());
            level_states
                .par_chunks_mut(h)
                .zip(gates.par_chunks_mut(4 * h))
                .zip(numbers::<T>(&of_states).par_chunks(3 * h))
                .zip(nodes.clone())
                .for_each(|(((state, gates), of_state), node)| {
                    let of_word = &of_words[tree.token(node) * 3 * h..][..3 * h];
                    let input = GruInput { of_word, of_state, bias_ih, bias_hh, before: before_of(node) };
                    kernels::gru_forward(input, state, gates);
                });
            levels.push(Level { before: before.narrow(0, 0, nodes.len() as i64), gates });
        }
        let last = tree.level(tree.n_levels() - 1);
        let leaves = Tensor::from_slice(&states[last.start * h..]).view([last.len() as i64, h as i64]);
        (leaves, GruPass { vectors, states, levels })
    }

    /// Adds to the gradients of the parameters, from those of the leaves' states, [leaves, H] float32.
    pub(super) fn backward<T: Number>(&self, tree: &PrefixTree, pass: GruPass<T>, of_leaves: &Tensor) {
        let h = self.hid_dim();
        let GruPass { vectors, states, levels } = pass;
        let first = vec![0f32; h];
        let mut of_states = of_leaves.shallow_clone(); // of the level's states, [n, H] float32
        let mut of_gates = Vec::new(); // of each level, the last first
        let mut of_news = Vec::new();
        for (t, level) in levels.iter().enumerate().rev() {
            let nodes = tree.level(t);
            let n = nodes.len() as i64;
            let mut of_gate =
                Tensor::empty([n_rows::<T>(nodes.len()) as i64, 3 * h as i64], (T::KIND, tch::Device::Cpu));
            let mut of_new = Tensor::empty([n, h as i64], (T::KIND, tch::Device::Cpu));
            let mut of_before = vec![0f32; nodes.len() * h];
            let before_of = |node: usize| match t {
                0 => &first[..],
                _ => &states[tree.parent(node) * h..][..h],
            };
            let (rows, rest) = numbers_mut::<T>(&mut of_gate).split_at_mut(nodes.len() * 3 * h);
            rest.fill(T::default());
            rows.par_chunks_mut(3 * h)
                .zip(numbers_mut::<T>(&mut of_new).par_chunks_mut(h))
                .zip(of_before.par_chunks_mut(h))
                .zip(level.gates.par_chunks(4 * h))
                .zip(numbers::<f32>(&of_states).par_chunks(h))
                .zip(nodes.clone())
                .for_each(|(((((of_gate, of_new), of_before), gates), of_state), node)| {
                    kernels::gru_backward(gates, before_of(node), of_state, of_gate, of_new, of_before);
                });
            if t > 0 {
                let through_gates = of_gate.mm(&self.weight_hh); // [n, H]
                let through_gates = numbers::<T>(&through_gates);
                let children = tree.children(t - 1);
                of_states = filled::<f32>(&[children.len() as i64, h as i64], |rows| {
                    rows.par_chunks_mut(h).zip(children).for_each(|(row, children)| {
                        row.fill(0.0);
                        for child in children.start - nodes.start..children.end - nodes.start {
                            kernels::add_scaled(row, 1.0, &of_before[child * h..][..h]);
                            kernels::add_scaled(row, 1.0, &through_gates[child * h..][..h]);
                        }
                    });
                });
            }
            of_gates.push(of_gate.narrow(0, 0, n));
            of_news.push(of_new);
        }

        of_gates.reverse();
        of_news.reverse();
        let (of_gates, of_news) = (Tensor::cat(&of_gates, 0), Tensor::cat(&of_news, 0)); // [nodes, 3 H], [nodes, H]
        let before = Tensor::cat(&levels.iter().map(|level| &level.before).collect::<Vec<_>>(), 0);
        let [of_ih, of_hh, of_bias_ih, of_bias_hh] = self.parameters.map(gradient_of);
        add(&of_hh, &of_gates.tr().mm(&before));
        add(&of_bias_hh, &of_gates.sum_dim_intlist(0, false, Kind::Float));

        // What the nodes of one word ask of it, added up, [words, 3 H].
        let (of_gates, of_news) = (numbers::<T>(&of_gates), numbers::<T>(&of_news));
        let nodes_of_words = tree.nodes_of_words();
        let of_words = filled::<f32>(&[nodes_of_words.len() as i64, 3 * h as i64], |rows| {
            rows.par_chunks_mut(3 * h).zip(nodes_of_words).for_each(|(row, nodes)| {
                row.fill(0.0);
                let (gates, new) = row.split_at_mut(2 * h);
                for node in nodes {
                    kernels::add_scaled(gates, 1.0, &of_gates[node * 3 * h..][..2 * h]);
                    kernels::add_scaled(new, 1.0, &of_news[node * h..][..h]);
                }
            });
        });
        add(&of_bias_ih, &of_words.sum_dim_intlist(0, false, Kind::Float));
        let of_words = of_words.to_kind(T::KIND);
        add(&of_ih, &of_words.tr().mm(&vectors));
        let of_vectors = of_words.mm(&self.weight_ih).to_kind(Kind::Float);
        if let Ok(padding) = tree.words().binary_search(&self.embedding.padding) {
            let _ = of_vectors.get(padding as i64).zero_();
        }
        let words = Tensor::from_slice(tree.words());
        let _ = gradient_of(&self.embedding.weight).index_add_(0, &words, &of_vectors);
    }
}
