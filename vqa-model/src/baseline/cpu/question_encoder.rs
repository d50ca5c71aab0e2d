//! The question encoder, forward and backward: word embedding and recurrent network.

use rayon::prelude::*;
use tch::{Kind, Tensor};
use vqa_data::random::split_mix_64;

use crate::baseline::cpu::cell::Cell;
use crate::baseline::cpu::gradients::grad_of;
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::recurrent_layer::{Inputs, LayerPass, RecurrentLayer};
use crate::baseline::cpu::steps::{Steps, Unrolled};
use crate::baseline::cpu::sums::add_rows;
use crate::baseline::language_model::{QuestionEmbedding, WordEmbedding};
use crate::cpu::kernels;
use crate::cpu::slice::{Number, from_padded_rows, from_zeros, values, values_mut};

/// A forward pass of the encoder, whose cells are `C`, with what its backward pass needs. Tensors are of type `T`.
pub(super) struct EncoderPass<'a, T, C> {
    embedding: &'a WordEmbedding,
    words: Vec<i64>, // the distinct words, ascending
    unrolled: Unrolled,
    layers: Vec<Layer<'a, T, C>>,
}

/// A forward pass of a layer of D directions, with what its backward pass needs.
struct Layer<'a, T, C> {
    sources: Vec<Source>,
    directions: Vec<Direction<'a, T, C>>,
}

/// What a layer reads: words, or the states of one direction of the layer below.
///
/// From its second layer on, a bidirectional network reads two hidden states side by side. Each is multiplied by its
/// half of the weight separately, since each is shared by more words than the pair is.
struct Source {
    inputs: Tensor, // [rows, E], padded
    n_rows: usize,
    masks: Option<DropoutMasks>, // of the inputs
}

struct Direction<'a, T, C> {
    layer: RecurrentLayer<'a, T, C>,
    pass: LayerPass<T>,
}

impl<'a, T: Number, C: Cell> EncoderPass<'a, T, C> {
    /// Returns the vectors of L distinct texts, [L, D H], padded, in the order of the prefix tree's leaves, and the
    /// pass. A vector is, for each direction, the hidden state after the word that it reads last. With a seed, dropout
    /// is on.
    pub(super) fn forward(
        embedding: &'a WordEmbedding,
        rnn: &'a QuestionEmbedding,
        prefixes: &PrefixTree,
        unrolled: Unrolled,
        seed: Option<u64>,
    ) -> (Tensor, EncoderPass<'a, T, C>) {
        let words = prefixes.words().to_vec();
        let vectors = {
            let weight = embedding.weight.detach();
            let (weight, e) = (values::<f32>(&weight), weight.size()[1] as usize);
            from_padded_rows::<T>(words.len(), e, |i, into| {
                kernels::write_scaled(into, 1.0, &weight[words[i] as usize * e..][..e])
            })
        }; // [words, E], padded
        let n_directions = unrolled.layer(0).len();
        let mut layers: Vec<Layer<'a, T, C>> = Vec::new();
        for (l, parameters) in rnn.weights.as_chunks().0.chunks(n_directions).enumerate() {
            let sources = match layers.last() {
                None => vec![Source { inputs: vectors.shallow_clone(), n_rows: words.len(), masks: None }],
                Some(below) => {
                    let seed = |d| seed.map(|seed| seed_of_dropout(seed, l, d));
                    let directions = below.directions.iter().zip(unrolled.layer(l - 1)).enumerate();
                    let source = directions.map(|(d, (direction, steps))| {
                        Source::dropped_out::<T>(direction.hidden(), &steps.keys, rnn.config.dropout, seed(d))
                    });
                    source.collect()
                }
            };
            let directions = parameters.iter().zip(unrolled.layer(l)).map(|(parameters, steps)| {
                let layer = RecurrentLayer::new(parameters);
                let pass = layer.forward(&steps.tree, &inputs(&unrolled, l, steps, &sources), seed.is_some());
                Direction { layer, pass }
            });
            let directions = directions.collect();
            layers.push(Layer { sources, directions });
        }
        let last = layers.last().expect("a network has a layer");
        let question = last.results(unrolled.layer(layers.len() - 1)); // [L, D H], padded
        (question, EncoderPass { embedding, words, unrolled, layers })
    }

    /// Adds to the gradients of the parameters, given the gradient of the texts' vectors, [L, D H] float32, padded.
    pub(super) fn backward(self, grad_question: &Tensor) {
        let (unrolled, grad_question) = (&self.unrolled, grad_question.contiguous());
        let last = unrolled.layer(self.layers.len() - 1).iter().enumerate();
        let h = grad_question.size()[1] as usize / last.len();
        let mut grads: Vec<Tensor> =
            last.map(|(d, steps)| by_node(&grad_question, d, h, &steps.results, steps.tree.len())).collect();
        for (l, layer) in self.layers.iter().enumerate().rev() {
            grads = layer.backward(unrolled, l, &grads); // [rows, E]
        }
        let [grad] = &grads[..] else { panic!("the first layer reads nothing but words") };
        if let Ok(padding) = self.words.binary_search(&self.embedding.padding) {
            let _ = grad.get(padding as i64).zero_();
        }
        // Word by word: there are few of them, and libtorch's `index_add_` takes a microsecond for each.
        let (dim, grad) = (grad.size()[1] as usize, values::<f32>(grad));
        let mut of_weight = grad_of(&self.embedding.weight);
        let of_weight = values_mut::<f32>(&mut of_weight);
        for (&word, grad) in self.words.iter().zip(grad.chunks(dim)) {
            kernels::add_scaled(&mut of_weight[word as usize * dim..][..dim], 1.0, grad);
        }
    }
}

/// The seed of the dropout on what layer `layer` reads from direction `d` of the layer below.
pub(super) fn seed_of_dropout(seed: u64, layer: usize, d: usize) -> u64 {
    split_mix_64(seed.wrapping_add((2 * layer + d) as u64))
}

/// What the steps of a direction of layer `layer` read from each source.
fn inputs<'a>(unrolled: &Unrolled, layer: usize, steps: &Steps, sources: &'a [Source]) -> Vec<Inputs<'a>> {
    let rows = |d: usize| match layer {
        0 => steps.rows.clone(),
        _ => steps.rows.iter().map(|&row| unrolled.layer(layer - 1)[d].outputs[row]).collect(),
    };
    sources.iter().enumerate().map(|(d, source)| Inputs { values: &source.inputs, rows: rows(d) }).collect()
}

impl Source {
    /// Applies dropout to the hidden states of a layer, [nodes, H], padded.
    ///
    /// One mask is drawn for each state, which questions with the same beginning share (backwards, the same ending);
    /// libtorch draws one for each question and word. Separate masks for each question would leave nothing to share in
    /// the layers above, and would be no more correct: either way, each question sees the network with random entries
    /// dropped, with the same probabilities, so the expected gradient of a batch is the same. Only the masks of these
    /// questions are no longer independent. A mask depends on nothing but the seed and what was read, so it is the same
    /// however a batch is split.
    fn dropped_out<T: Number>(mut states: Tensor, keys: &[u64], p: f64, seed: Option<u64>) -> Source {
        let columns = states.size()[1] as usize;
        let masks = seed.filter(|_| p > 0.0).map(|seed| DropoutMasks::draw_by_keys(seed, keys, columns, p));
        if let Some(masks) = &masks {
            masks.apply::<T>(&mut states);
        }
        Source { inputs: states, n_rows: keys.len(), masks }
    }
}

impl<T: Number, C: Cell> Direction<'_, T, C> {
    /// The hidden states of all nodes, [nodes, H], padded.
    fn hidden(&self) -> Tensor {
        let (states, h) = (&self.pass.states, self.layer.hid_dim());
        from_padded_rows::<T>(states.len(), h, |node, into| kernels::write_scaled(into, 1.0, &states.of(node)[..h]))
    }
}

impl<T: Number, C: Cell> Layer<'_, T, C> {
    /// The hidden states after each text, of all directions side by side: [L, D H], padded.
    fn results(&self, steps: &[Steps]) -> Tensor {
        let of_direction = |(direction, steps): (&Direction<T, C>, &Steps)| {
            let (states, h) = (&direction.pass.states, direction.layer.hid_dim());
            from_padded_rows::<T>(steps.results.len(), h, |i, into| {
                kernels::write_scaled(into, 1.0, &states.of(steps.results[i])[..h])
            })
        };
        let mut results: Vec<Tensor> = self.directions.iter().zip(steps).map(of_direction).collect();
        if results.len() == 1 { results.remove(0) } else { Tensor::cat(&results, 1) }
    }

    /// Adds to the gradients of the parameters, given the gradients of each direction's hidden states, [m, H] float32
    /// for its last m nodes. Returns the gradients of the sources before dropout, [rows, E] float32.
    fn backward(&self, unrolled: &Unrolled, layer: usize, grads: &[Tensor]) -> Vec<Tensor> {
        let mut sums: Vec<Option<Tensor>> = self.sources.iter().map(|_| None).collect();
        for ((direction, steps), grad) in self.directions.iter().zip(unrolled.layer(layer)).zip(grads) {
            let inputs = inputs(unrolled, layer, steps, &self.sources);
            let of_inputs = direction.layer.backward(&steps.tree, &inputs, &direction.pass, grad);
            for ((sum, grad), source) in sums.iter_mut().zip(of_inputs).zip(&self.sources) {
                let grad = grad.narrow(0, 0, source.n_rows as i64).to_kind(Kind::Float);
                *sum = Some(match sum.take() {
                    None => grad,
                    Some(other) => other + grad,
                });
            }
        }
        let with_dropout = |(sum, source): (Option<Tensor>, &Source)| {
            let mut sum = sum.expect("a layer has a direction");
            if let Some(masks) = &source.masks {
                masks.apply::<f32>(&mut sum);
            }
            sum
        };
        sums.into_iter().zip(&self.sources).map(with_dropout).collect()
    }
}

/// Sums the rows of direction `d` in a gradient [n, D H] by node: [m, H] for the last m nodes. Earlier nodes have no
/// rows.
fn by_node(grad: &Tensor, d: usize, h: usize, nodes: &[usize], n_nodes: usize) -> Tensor {
    let first = nodes.iter().copied().min().unwrap_or(n_nodes);
    let mut rows_of = vec![Vec::new(); n_nodes - first];
    nodes.iter().enumerate().for_each(|(row, &node)| rows_of[node - first].push(row));
    let (grad, row_len) = (values::<f32>(grad), grad.size()[1] as usize);
    from_zeros::<f32>(&[rows_of.len() as i64, h as i64], |sums| {
        sums.par_chunks_mut(h).zip(rows_of).for_each(|(sum, rows)| {
            add_rows(sum, 0..rows.len(), &|sum, i| {
                kernels::add_scaled(sum, 1.0, &grad[rows[i] * row_len + d * h..][..h]);
            });
        });
    })
}
