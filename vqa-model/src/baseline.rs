use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::fc::{FCNet, SimpleClassifier};
use crate::fused;
use crate::language_model::{QuestionEmbedding, WordEmbedding};
use crate::model::{ModelInput, ModelOutput, TrainingPass, VqaModel};
use crate::topdown_attention::TopdownAttention;
use crate::weights::Header;

/// Sizes that come from the data, not from the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataDims {
    /// Words in the dictionary, padding not counted.
    pub n_words: i64,
    /// Candidate answers.
    pub n_answers: i64,
    /// Length of a region's feature vector, D.
    pub feature_dim: i64,
}

impl DataDims {
    /// The sizes as entries of a checkpoint's header.
    pub fn to_header(self) -> Header {
        [("n_words", self.n_words), ("n_answers", self.n_answers), ("feature_dim", self.feature_dim)]
            .map(|(key, value)| (key.to_owned(), value.to_string()))
            .into()
    }

    /// The sizes from a checkpoint's header, if it has them.
    pub fn from_header(header: &Header) -> Option<DataDims> {
        let number = |key: &str| header.get(key)?.parse().ok();
        Some(DataDims {
            n_words: number("n_words")?,
            n_answers: number("n_answers")?,
            feature_dim: number("feature_dim")?,
        })
    }
}

/// The joint-embedding model: the question's last RNN state picks regions; question and attended regions, projected,
/// are multiplied element by element; a classifier scores every answer.
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
        }
    }

    /// The word embedding, to begin with pretrained vectors.
    pub fn word_embedding(&self) -> &WordEmbedding {
        &self.w_emb
    }
}

impl VqaModel for Baseline {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        let kind = input.features.kind();
        let words = self.w_emb.forward(&input.tokens).to_kind(kind); // [B, T, word_emb_dim]
        let question = self.q_emb.forward(&words, train); // [B, question_dim]
        let attention = self.v_att.forward(&question, input, train); // [B, K]
        let attended = weighted_sum(&attention.to_kind(kind), input); // [B, D]
        let joint = self.q_net.forward(&question) * self.v_net.forward(&attended); // [B, hid_dim]
        let logits = self.classifier.forward(&joint, train); // [B, n_answers]
        ModelOutput { logits, attention }
    }

    fn infer(&self, input: &ModelInput) -> ModelOutput {
        if fused::serves(self, input) {
            return fused::infer(self, input);
        }
        tch::no_grad(|| self.forward(input, false))
    }

    fn train<'a>(&'a self, input: &'a ModelInput) -> TrainingPass<'a> {
        if fused::serves(self, input) {
            // Drawn from libtorch, so that its seed decides of this dropout too.
            let seed = Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]);
            return fused::train(self, input, seed as u64);
        }
        TrainingPass::of_forward(self.forward(input, true))
    }
}

/// The regions of each question's image, added up by their weights: [B, D].
fn weighted_sum(attention: &Tensor, input: &ModelInput) -> Tensor {
    let regions = input.features.index_select(0, &input.image_rows); // [B, K, D]
    attention.unsqueeze(1).bmm(&regions).squeeze_dim(1)
}
