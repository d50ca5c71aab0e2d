//! The model, layer by layer: the reference for every other implementation of it.

use std::cell::OnceCell;

use tch::Tensor;
use tch::nn::Path;

use crate::baseline::config::ModelConfig;
use crate::baseline::fc::{FCNet, SimpleClassifier, WeightNormLinear};
use crate::baseline::gpu::kernels::Kernels;
use crate::baseline::language_model::{QuestionEmbedding, WordEmbedding};
use crate::baseline::topdown_attention::TopdownAttention;
use crate::model::{DataDims, ModelInput, ModelOutput};

/// The joint-embedding model: the question's last RNN state attends to regions; the question and the attended regions
/// are projected and multiplied element by element; a classifier scores every answer.
///
/// Anderson et al. 2018, "Bottom-Up and Top-Down Attention", without its gated activations, as in
/// bottom-up-attention-vqa. Parameter names and shapes are those of the PyTorch module.
#[derive(Debug)]
pub struct Baseline {
    pub(crate) w_emb: WordEmbedding,
    pub(crate) q_emb: QuestionEmbedding,
    pub(crate) v_att: TopdownAttention,
    pub(crate) q_net: FCNet,
    pub(crate) v_net: FCNet,
    pub(crate) classifier: SimpleClassifier,
    /// Loaded in the first training step on a GPU in bfloat16; `None` if they cannot be loaded.
    pub(super) kernels: OnceCell<Option<Kernels>>,
}

impl Baseline {
    /// Creates the parameters below `vs`, initialised as PyTorch does.
    pub fn new(vs: Path, config: &ModelConfig, dims: DataDims) -> Baseline {
        let (hid_dim, question_dim) = (config.hid_dim, config.question_dim());
        Baseline {
            w_emb: WordEmbedding::new(&vs / "w_emb", dims.n_words, config.lm.word_emb_dim),
            q_emb: QuestionEmbedding::new(&vs / "q_emb", hid_dim, &config.lm),
            v_att: TopdownAttention::new(&vs / "v_att", question_dim, dims.feature_dim, &config.topdown_att),
            q_net: FCNet::new(&vs / "q_net", &[question_dim, hid_dim]),
            v_net: FCNet::new(&vs / "v_net", &[dims.feature_dim, hid_dim]),
            classifier: SimpleClassifier::new(
                &vs / "classifier",
                hid_dim,
                config.mlp.hid_dim,
                dims.n_answers,
                config.mlp.dropout,
            ),
            kernels: OnceCell::new(),
        }
    }

    /// The word embedding, for [`set_vectors`](WordEmbedding::set_vectors).
    pub fn word_embedding(&self) -> &WordEmbedding {
        &self.w_emb
    }

    pub(super) fn weight_norm_layers(&self) -> Vec<&WeightNormLinear> {
        let SimpleClassifier { hidden, output, .. } = &self.classifier;
        let mut layers = self.v_att.weight_norm_layers();
        layers.extend(self.q_net.layers.iter().chain(&self.v_net.layers).chain([hidden, output]));
        layers
    }

    /// The forward pass, layer by layer.
    pub(super) fn forward_by_layers(&self, input: &ModelInput, train: bool) -> ModelOutput {
        let kind = input.features.kind();
        let words = self.w_emb.forward(&input.tokens).to_kind(kind); // [B, T, word_emb_dim]
        let question = self.q_emb.forward(&words, train); // [B, question_dim]
        let attention = self.v_att.forward(&question, input, train); // [B, K]
        let attended = weighted_sum(&attention.to_kind(kind), input); // [B, D]
        let joint = self.q_net.forward(&question) * self.v_net.forward(&attended); // [B, hid_dim]
        let logits = self.classifier.forward(&joint, train); // [B, n_answers]
        ModelOutput { logits, attention }
    }
}

/// The weighted sum of the regions of each question's image, [B, D].
fn weighted_sum(attention: &Tensor, input: &ModelInput) -> Tensor {
    let regions = input.features.index_select(0, &input.image_rows); // [B, K, D]
    attention.unsqueeze(1).bmm(&regions).squeeze_dim(1)
}
