//! The question encoder: word embedding and recurrent network.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use crate::baseline::config::{LanguageModelConfig, RnnKind};
use crate::baseline::fc::columns_to_align;

/// Maps word ids to word vectors. The last id is padding: its vector is zero and stays zero.
#[derive(Debug)]
pub struct WordEmbedding {
    pub(crate) weight: Tensor, // [n_words + 1, dim]
    pub(crate) padding: i64,
}

impl WordEmbedding {
    /// Vectors for `n_words` words and padding, standard normal as in PyTorch's `nn.Embedding`. The parameter
    /// is `emb.weight`.
    pub fn new(vs: Path, n_words: i64, dim: i64) -> WordEmbedding {
        let weight = (vs / "emb").var("weight", &[n_words + 1, dim], Init::Randn { mean: 0.0, stdev: 1.0 });
        let _ = tch::no_grad(|| weight.get(n_words).zero_());
        WordEmbedding { weight, padding: n_words }
    }

    /// Replaces all random vectors but the padding's by pretrained ones, [n_words, dim].
    ///
    /// # Panics
    ///
    /// If there are more or fewer values than that.
    pub fn set_vectors(&self, vectors: &[f32]) {
        let words = self.weight.narrow(0, 0, self.padding);
        let vectors = Tensor::from_slice(vectors).view_as(&words);
        tch::no_grad(|| words.shallow_clone().copy_(&vectors));
    }

    /// Maps [B, T] to [B, T, dim].
    pub fn forward(&self, tokens: &Tensor) -> Tensor {
        // In the backward pass a GPU radix-sorts the tokens: fewer bits take less time.
        let tokens = if tokens.device().is_cuda() { tokens.to_kind(Kind::Int) } else { tokens.shallow_clone() };
        Tensor::embedding(&self.weight, &tokens, self.padding, false, false)
    }
}

/// Maps word vectors to a question vector: the last hidden state of a GRU or LSTM.
#[derive(Debug)]
pub struct QuestionEmbedding {
    pub(crate) weights: Vec<Tensor>,
    pub(crate) hid_dim: i64,
    pub(crate) config: LanguageModelConfig,
}

impl QuestionEmbedding {
    /// A network with PyTorch's initialisation, uniform in ± 1 / sqrt(hid_dim). The parameters are
    /// `rnn.weight_ih_l0`, `rnn.weight_hh_l0`, `rnn.bias_ih_l0`, `rnn.bias_hh_l0`, and so on for
    /// each layer, with the suffix `_reverse` for the backward direction.
    pub fn new(vs: Path, hid_dim: i64, config: &LanguageModelConfig) -> QuestionEmbedding {
        let rnn = vs / "rnn";
        let bound = 1.0 / (hid_dim as f64).sqrt();
        let uniform = Init::Uniform { lo: -bound, up: bound };
        let n_gates = match config.rnn_type {
            RnnKind::Gru => 3,
            RnnKind::Lstm => 4,
        };
        let endings: &[&str] = if config.bidirectional { &["", "_reverse"] } else { &[""] };
        let mut weights = Vec::new();
        for layer in 0..config.n_layers {
            let in_dim = if layer == 0 { config.word_emb_dim } else { hid_dim * endings.len() as i64 };
            for ending in endings {
                let mut add = |name: &str, shape: &[i64]| {
                    weights.push(rnn.var(&format!("{name}_l{layer}{ending}"), shape, uniform));
                };
                add("weight_ih", &[n_gates * hid_dim, in_dim]);
                add("weight_hh", &[n_gates * hid_dim, hid_dim]);
                add("bias_ih", &[n_gates * hid_dim]);
                add("bias_hh", &[n_gates * hid_dim]);
            }
        }
        QuestionEmbedding { weights, hid_dim, config: config.clone() }
    }

    /// Maps [B, T, word_emb_dim] to [B, hid_dim] or, if bidirectional, to [B, 2 hid_dim]: the forward state after the
    /// last word, followed by the backward state after the first. The output has the number type of the input.
    pub fn forward(&self, words: &Tensor, train: bool) -> Tensor {
        let LanguageModelConfig { rnn_type, n_layers, bidirectional, dropout, .. } = self.config;
        let n_directions = if bidirectional { 2 } else { 1 };
        let batch = words.size()[0];
        let zeros = Tensor::zeros([n_layers * n_directions, batch, self.hid_dim], (words.kind(), words.device()));
        let mut weights: Vec<Tensor> = self.weights.iter().map(|weight| weight.to_kind(words.kind())).collect();
        let mut words = words.shallow_clone();
        if words.device().is_cuda() {
            let n = columns_to_align(words.device(), words.size()[2]);
            if n > 0 {
                words = with_zeros(&words, &mut weights, n_directions as usize, n);
            }
            weights = in_one_piece(&weights);
        }
        let last = match rnn_type {
            RnnKind::Gru => words.gru(&zeros, &weights, true, n_layers, dropout, train, bidirectional, true).1,
            RnnKind::Lstm => {
                let initial = [zeros.shallow_clone(), zeros];
                words.lstm(&initial, &weights, true, n_layers, dropout, train, bidirectional, true).1
            }
        }; // [n_layers * n_directions, B, hid_dim]
        if !bidirectional {
            return last.select(0, -1);
        }
        Tensor::cat(&[last.select(0, -2), last.select(0, -1)], 1)
    }
}

/// Adds `n` columns of zeros to the words, and zeros as their weights in each direction of the first layer.
fn with_zeros(words: &Tensor, weights: &mut [Tensor], n_directions: usize, n: i64) -> Tensor {
    for weight_ih in weights.iter_mut().step_by(4).take(n_directions) {
        *weight_ih = weight_ih.constant_pad_nd([0, n]);
    }
    words.constant_pad_nd([0, n])
}

/// The same weights as views of one flat tensor, matrices before biases, which is the layout that cuDNN needs. Given
/// any other, libtorch copies them into one tensor at each call, and prints a warning each time.
fn in_one_piece(weights: &[Tensor]) -> Vec<Tensor> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&i| weights[i].dim() == 1);
    let parts: Vec<Tensor> = order.iter().map(|&i| weights[i].reshape([-1])).collect();
    let sizes: Vec<i64> = parts.iter().map(|part| part.numel() as i64).collect();
    // Split in one operation, so that its backward pass concatenates the gradients in one.
    let split = Tensor::cat(&parts, 0).split_with_sizes(&sizes, 0);
    let mut views: Vec<(usize, Tensor)> =
        order.into_iter().zip(split).map(|(i, part)| (i, part.view_as(&weights[i]))).collect();
    views.sort_by_key(|&(i, _)| i);
    views.into_iter().map(|(_, view)| view).collect()
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;

    /// The states and the gradients of all weights are the same as with the original weights.
    #[test]
    fn weights_in_one_piece_are_the_same_weights() {
        let vs = VarStore::new(Device::Cpu);
        let config =
            LanguageModelConfig { word_emb_dim: 3, n_layers: 2, bidirectional: true, ..LanguageModelConfig::default() };
        let rnn = QuestionEmbedding::new(vs.root(), 5, &config);
        let words = Tensor::randn([4, 6, 3], (Kind::Float, Device::Cpu));
        let zeros = Tensor::zeros([4, 4, 5], (Kind::Float, Device::Cpu));
        let run = |words: &Tensor, weights: &[Tensor]| {
            let states = words.gru(&zeros, weights, true, 2, 0.0, false, true, true).0;
            let gradients = Tensor::run_backward(&[states.square().sum(Kind::Float)], &rnn.weights, false, false);
            let flat: Vec<Tensor> = gradients.iter().chain([&states]).map(|tensor| tensor.reshape([-1])).collect();
            Tensor::cat(&flat, 0)
        };
        let pieces = in_one_piece(&rnn.weights);
        assert!(run(&words, &rnn.weights).equal(&run(&words, &pieces)));
        // Columns of zeros change nothing either.
        let mut padded: Vec<Tensor> = rnn.weights.iter().map(Tensor::shallow_clone).collect();
        let longer_words = with_zeros(&words, &mut padded, 2, 5);
        assert_eq!(longer_words.size(), [4, 6, 8]);
        let (found, expected) = (run(&longer_words, &in_one_piece(&padded)), run(&words, &rnn.weights));
        assert!(found.allclose(&expected, 1e-5, 1e-6, false));
        // Matrices in order, then biases, with nothing in between.
        let address = |tensor: &Tensor| tensor.data_ptr() as usize;
        let (matrices, biases): (Vec<_>, Vec<_>) = pieces.iter().partition(|piece| piece.dim() == 2);
        let mut expected = address(matrices[0]);
        for piece in matrices.into_iter().chain(biases) {
            assert_eq!(address(piece), expected);
            expected += 4 * piece.numel();
        }
    }
}
