//! The sizes and kinds of the model's parts, as in a config file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vqa_data::config::check_range;

use crate::error::Result;
use crate::loss::LossKind;
use crate::model::DataDims;

/// The longest vector, and the most layers, that a config may ask for.
const MAX_LEN: i64 = 1 << 16;
const MAX_LAYERS: i64 = 64;

/// Above this, the fraction that dropout keeps is so small that rounding it to a multiple of 1 / 65,536, as the
/// written-out passes do, could change it by about a percent.
const MAX_DROPOUT: f64 = 0.999;

/// Eight gigabytes of float32 weights; training takes four times that.
const MAX_PARAMETERS: u64 = 1 << 31;

/// `[model]` in a config file. The defaults are the article's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Length of the question's and the image's representation.
    pub hid_dim: i64,
    /// How the loss reads the logits.
    pub loss: LossKind,
    /// Weights of the same model to initialise from: a safetensors file, or one written by `torch.save`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// The question encoder.
    pub lm: LanguageModelConfig,
    /// The attention over regions.
    pub topdown_att: AttentionConfig,
    /// The answer classifier.
    pub mlp: ClassifierConfig,
}

/// `[model.lm]`: word embedding and recurrent network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageModelConfig {
    /// Length of a word vector.
    pub word_emb_dim: i64,
    /// Pretrained word vectors to initialise from, as in `glove.6B.300d.txt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glove: Option<PathBuf>,
    /// The recurrent cell.
    pub rnn_type: RnnKind,
    /// How many recurrent layers are stacked.
    pub n_layers: i64,
    /// Whether the question is also read backwards. The question's representation is then twice as long.
    pub bidirectional: bool,
    /// Dropout between the layers; a single layer has none.
    pub dropout: f64,
}

/// The recurrent cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RnnKind {
    /// Gated recurrent unit.
    #[default]
    #[serde(rename = "GRU")]
    Gru,
    /// Long short-term memory.
    #[serde(rename = "LSTM")]
    Lstm,
}

/// `[model.topdown_att]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionConfig {
    /// How a question and a region are compared.
    #[serde(rename = "type")]
    pub kind: AttentionKind,
    /// Length of the vector in which they are compared.
    pub hid_dim: i64,
    /// Dropout on that vector, for either type; the article's value is 0.2.
    pub dropout: f64,
}

/// How a question and a region are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionKind {
    /// The element-wise product of their projections.
    #[default]
    Product,
    /// One layer over the two, concatenated.
    Concat,
}

/// `[model.mlp]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// Length of the hidden layer.
    pub hid_dim: i64,
    /// Dropout on it.
    pub dropout: f64,
}

impl Default for ModelConfig {
    fn default() -> ModelConfig {
        ModelConfig {
            hid_dim: 1024,
            loss: LossKind::default(),
            init: None,
            lm: LanguageModelConfig::default(),
            topdown_att: AttentionConfig::default(),
            mlp: ClassifierConfig::default(),
        }
    }
}

impl Default for LanguageModelConfig {
    fn default() -> LanguageModelConfig {
        LanguageModelConfig {
            word_emb_dim: 300,
            glove: None,
            rnn_type: RnnKind::default(),
            n_layers: 1,
            bidirectional: false,
            dropout: 0.0,
        }
    }
}

impl Default for AttentionConfig {
    fn default() -> AttentionConfig {
        AttentionConfig { kind: AttentionKind::default(), hid_dim: 1024, dropout: 0.2 }
    }
}

impl Default for ClassifierConfig {
    fn default() -> ClassifierConfig {
        ClassifierConfig { hid_dim: 2048, dropout: 0.5 }
    }
}

impl ModelConfig {
    /// Length of the question's representation: `hid_dim` for each direction.
    pub fn question_dim(&self) -> i64 {
        self.hid_dim * if self.lm.bidirectional { 2 } else { 1 }
    }

    /// Makes relative paths relative to `base` instead of the working directory.
    pub fn resolve_paths(&mut self, base: &Path) {
        for path in self.init.iter_mut().chain(&mut self.lm.glove) {
            *path = base.join(&*path);
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the first key whose value cannot be used, or the keys that make the model too large.
    pub fn validate(&self) -> Result<(), String> {
        for (key, value) in [
            ("model.hid_dim", self.hid_dim),
            ("model.lm.word_emb_dim", self.lm.word_emb_dim),
            ("model.topdown_att.hid_dim", self.topdown_att.hid_dim),
            ("model.mlp.hid_dim", self.mlp.hid_dim),
        ] {
            check_range(key, value, 1..=MAX_LEN)?;
        }
        check_range("model.lm.n_layers", self.lm.n_layers, 1..=MAX_LAYERS)?;
        for (key, value) in [
            ("model.lm.dropout", self.lm.dropout),
            ("model.topdown_att.dropout", self.topdown_att.dropout),
            ("model.mlp.dropout", self.mlp.dropout),
        ] {
            check_range(key, value, 0.0..=MAX_DROPOUT)?;
        }
        // The data adds to these; whether there is enough memory for all of them shows when the model is built.
        let parts = self.n_parameters(DataDims { n_words: 1, n_answers: 1, feature_dim: 1 });
        let n: u64 = parts.iter().map(|&(_, n)| n).sum();
        if n > MAX_PARAMETERS {
            let (keys, _) = parts.into_iter().max_by_key(|&(_, n)| n).expect("a model has parts");
            return Err(format!(
                "the sizes in [model] give {n} parameters, more than the limit of {MAX_PARAMETERS}: lower {keys}"
            ));
        }
        Ok(())
    }

    /// The number of parameters of each part of the model, with the keys that it depends on most. The values of the
    /// keys must be in the ranges that [`ModelConfig::validate`] checks.
    fn n_parameters(&self, dims: DataDims) -> [(&'static str, u64); 5] {
        let [n_words, n_answers, feature_dim] =
            [dims.n_words, dims.n_answers, dims.feature_dim].map(|length| length as u64);
        let [hid_dim, question_dim, word_dim, att_dim, mlp_dim, n_layers] = [
            self.hid_dim,
            self.question_dim(),
            self.lm.word_emb_dim,
            self.topdown_att.hid_dim,
            self.mlp.hid_dim,
            self.lm.n_layers,
        ]
        .map(|length| length as u64);
        // A matrix, a bias, and the scalar of its weight norm.
        let linear = |in_dim: u64, out_dim: u64| in_dim * out_dim + out_dim + 1;
        let n_gates = match self.lm.rnn_type {
            RnnKind::Gru => 3,
            RnnKind::Lstm => 4,
        };
        // Input and hidden weights, each with its bias, for every direction.
        let rnn_layer = |in_dim: u64| n_gates * question_dim * (in_dim + hid_dim + 2);
        let compared = match self.topdown_att.kind {
            AttentionKind::Product => linear(feature_dim, att_dim) + linear(question_dim, att_dim),
            AttentionKind::Concat => linear(feature_dim + question_dim, att_dim),
        };
        [
            ("model.lm.word_emb_dim", (n_words + 1) * word_dim),
            ("model.hid_dim or model.lm.n_layers", rnn_layer(word_dim) + (n_layers - 1) * rnn_layer(question_dim)),
            ("model.topdown_att.hid_dim or model.hid_dim", compared + linear(att_dim, 1)),
            ("model.hid_dim", linear(question_dim, hid_dim) + linear(feature_dim, hid_dim)),
            ("model.mlp.hid_dim or model.hid_dim", linear(hid_dim, mlp_dim) + linear(mlp_dim, n_answers)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::VarStore;

    use super::*;
    use crate::baseline::layers::Baseline;

    #[test]
    fn parameters_are_those_that_the_model_has() {
        let dims = DataDims { n_words: 11, n_answers: 5, feature_dim: 13 };
        for rnn_type in [RnnKind::Gru, RnnKind::Lstm] {
            for kind in [AttentionKind::Product, AttentionKind::Concat] {
                for (n_layers, bidirectional) in [(1, false), (1, true), (3, false), (2, true)] {
                    let config = ModelConfig {
                        hid_dim: 6,
                        lm: LanguageModelConfig {
                            word_emb_dim: 7,
                            rnn_type,
                            n_layers,
                            bidirectional,
                            ..LanguageModelConfig::default()
                        },
                        topdown_att: AttentionConfig { kind, hid_dim: 8, dropout: 0.2 },
                        mlp: ClassifierConfig { hid_dim: 9, dropout: 0.5 },
                        ..ModelConfig::default()
                    };
                    let vs = VarStore::new(Device::Cpu);
                    Baseline::new(vs.root(), &config, dims);
                    let found: usize = vs.variables().values().map(tch::Tensor::numel).sum();
                    let counted: u64 = config.n_parameters(dims).iter().map(|&(_, n)| n).sum();
                    assert_eq!(counted, found as u64, "{config:?}");
                }
            }
        }
    }
}
