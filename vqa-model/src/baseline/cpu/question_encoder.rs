//! The question encoder, forward and backward: word embedding and recurrent network.

use rayon::prelude::*;
use tch::{Kind, Tensor};
use vqa_data::random::split_mix_64;

use crate::baseline::cpu::cell::Cell;
use crate::baseline::cpu::gradients::grad_of;
use crate::baseline::cpu::kernels;
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::recurrent_layer::{LayerPass, RecurrentLayer, States};
use crate::baseline::cpu::slice::{Number, from_rows, from_zeros, values};
use crate::baseline::cpu::steps::{Steps, Unrolled};
use crate::baseline::cpu::sums::add_rows;
use crate::baseline::language_model::{QuestionEmbedding, WordEmbedding};

/// A forward pass of the encoder, whose cells are `C`, with what its backward pass needs. Tensors are of type `T`.
pub(super) struct EncoderPass<'a, T, C> {
    embedding: &'a WordEmbedding,
    words: Vec<i64>, // the distinct words, ascending
    unrolled: Unrolled,
    layers: Vec<Layer<'a, T, C>>,
}

/// A forward pass of a layer of D directions, with what its backward pass needs.
struct Layer<'a, T, C> {
    inputs: Tensor,              // [rows, E]
    masks: Option<DropoutMasks>, // of the inputs
    directions: Vec<Direction<'a, T, C>>,
}

struct Direction<'a, T, C> {
    layer: RecurrentLayer<'a, T, C>,
    pass: LayerPass<T>,
}

impl<'a, T: Number, C: Cell> EncoderPass<'a, T, C> {
    /// The vectors of L distinct texts, [L, D H], in the order of the leaves of their prefixes, and the pass: for each
    /// direction the state after the word that it reads last. With a seed, dropout is on.
    pub(super) fn forward(
        embedding: &'a WordEmbedding,
        rnn: &'a QuestionEmbedding,
        prefixes: &PrefixTree,
        unrolled: Unrolled,
        seed: Option<u64>,
    ) -> (Tensor, EncoderPass<'a, T, C>) {
        let words = prefixes.words().to_vec();
        let vectors = embedding.weight.detach().index_select(0, &Tensor::from_slice(&words)).to_kind(T::KIND); // [words, E]
        let n_directions = unrolled.layer(0).len();
        let mut layers: Vec<Layer<'a, T, C>> = Vec::new();
        for (l, parameters) in rnn.weights.as_chunks().0.chunks(n_directions).enumerate() {
            let (inputs, masks) = match layers.last() {
                None => (vectors.shallow_clone(), None),
                Some(below) => {
                    let states = below.hidden(unrolled.layer(l - 1), |steps| &steps.outputs); // [rows, D H]
                    let seed = seed.map(|seed| split_mix_64(seed.wrapping_add(l as u64)));
                    dropped_out::<T>(states, &unrolled.row_keys, rnn.config.dropout, seed)
                }
            };
            let directions = parameters.iter().zip(unrolled.layer(l)).map(|(parameters, steps)| {
                let layer = RecurrentLayer::new(parameters);
                let pass = layer.forward(steps, &inputs, seed.is_some());
                Direction { layer, pass }
            });
            let directions = directions.collect();
            layers.push(Layer { inputs, masks, directions });
        }
        let last = layers.last().expect("a network has a layer");
        let question = last.hidden(unrolled.layer(layers.len() - 1), |steps| &steps.results); // [L, D H]
        (question, EncoderPass { embedding, words, unrolled, layers })
    }

    /// Adds to the gradients of the parameters, given that of the texts' vectors, [L, D H] float32.
    pub(super) fn backward(self, grad_question: &Tensor) {
        let mut grad = grad_question.contiguous();
        let mut nodes: fn(&Steps) -> &[usize] = |steps| &steps.results;
        for (l, layer) in self.layers.iter().enumerate().rev() {
            grad = layer.backward(self.unrolled.layer(l), nodes, &grad); // [rows, E]
            nodes = |steps| &steps.outputs;
        }
        if let Ok(padding) = self.words.binary_search(&self.embedding.padding) {
            let _ = grad.get(padding as i64).zero_();
        }
        let _ = grad_of(&self.embedding.weight).index_add_(0, &Tensor::from_slice(&self.words), &grad);
    }
}

/// Dropout between two layers, and its masks.
///
/// A mask is drawn for each row, which questions with the same beginning share, where libtorch draws one for each question
/// and word. Another mask for each question would leave nothing to share in the layers above. And it would not be more
/// right: either way each question sees the network with random parts left out, all of them equally likely, so the
/// expected gradient of a batch is the same. Only the drawings of these questions are no longer independent. A mask follows
/// from what was read, so that it is the same whichever part of a batch is computed together.
fn dropped_out<T: Number>(
    mut states: Tensor,
    keys: &[u64],
    p: f64,
    seed: Option<u64>,
) -> (Tensor, Option<DropoutMasks>) {
    let columns = states.size()[1] as usize;
    let masks = seed.filter(|_| p > 0.0).map(|seed| DropoutMasks::draw_by_keys(seed, keys, columns, p));
    if let Some(masks) = &masks {
        masks.apply::<T>(&mut states);
    }
    (states, masks)
}

impl<T: Number, C: Cell> Layer<'_, T, C> {
    /// The hidden states of as many nodes of each direction, side by side: [n, D H].
    fn hidden(&self, steps: &[Steps], nodes: fn(&Steps) -> &[usize]) -> Tensor {
        let states: Vec<(&States, &[usize])> = self
            .directions
            .iter()
            .zip(steps)
            .map(|(direction, steps)| (&direction.pass.states, nodes(steps)))
            .collect();
        let (d, h, n) = (states.len(), self.directions[0].layer.hid_dim(), states[0].1.len());
        from_rows::<T>(&[n as i64, (d * h) as i64], h, |i, into| {
            let (states, nodes) = states[i % d];
            kernels::write_scaled(into, 1.0, &states.of(nodes[i / d])[..h])
        })
    }

    /// Adds to the gradients of the parameters, given that of what [`hidden`](Layer::hidden) has returned for these
    /// nodes, in float32. Returns that of the input before dropout, [rows, E] float32.
    fn backward(&self, steps: &[Steps], nodes: fn(&Steps) -> &[usize], grad: &Tensor) -> Tensor {
        let mut grad_inputs: Option<Tensor> = None;
        for (d, (direction, steps)) in self.directions.iter().zip(steps).enumerate() {
            let grad_hidden = by_node(grad, d, direction.layer.hid_dim(), nodes(steps), steps.tree.len());
            let grad =
                direction.layer.backward(steps, &self.inputs, &direction.pass, &grad_hidden).to_kind(Kind::Float);
            grad_inputs = Some(grad_inputs.map_or_else(|| grad.shallow_clone(), |other| other + &grad));
        }
        let mut grad_inputs = grad_inputs.expect("a layer has a direction");
        if let Some(masks) = &self.masks {
            masks.apply::<f32>(&mut grad_inputs);
        }
        grad_inputs
    }
}

/// The rows of direction `d` in a gradient [n, D H], added up by node: [m, H], of the last m nodes. Before them is none
/// that has a row.
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
