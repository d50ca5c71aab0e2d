//! The sizes and kinds of the model's parts, as in a config file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::loss::LossKind;

/// `[model]` in a config file. The defaults are the article's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Length of the question's and the image's representation.
    pub hid_dim: i64,
    /// How the loss reads the logits.
    pub loss: LossKind,
    /// Weights of the same model to initialise from: a safetensors file, or one of `torch.save`.
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
    /// Recurrent layers on top of each other.
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
    /// Dropout on that vector, whichever the type; the article's value is 0.2.
    pub dropout: f64,
}

/// How a question and a region are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionKind {
    /// The element-wise product of their projections.
    #[default]
    Product,
    /// One layer over both, side by side.
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
    /// Names the first key whose value cannot be used.
    pub fn validate(&self) -> Result<(), String> {
        let lengths = [
            ("hid_dim", self.hid_dim),
            ("lm.word_emb_dim", self.lm.word_emb_dim),
            ("lm.n_layers", self.lm.n_layers),
            ("topdown_att.hid_dim", self.topdown_att.hid_dim),
            ("mlp.hid_dim", self.mlp.hid_dim),
        ];
        if let Some((key, value)) = lengths.into_iter().find(|&(_, value)| value < 1) {
            return Err(format!("model.{key} = {value}, and at least 1 is wanted"));
        }
        let dropouts = [
            ("lm.dropout", self.lm.dropout),
            ("topdown_att.dropout", self.topdown_att.dropout),
            ("mlp.dropout", self.mlp.dropout),
        ];
        match dropouts.into_iter().find(|&(_, value)| !(0.0..1.0).contains(&value)) {
            Some((key, value)) => Err(format!("model.{key} = {value}, and 0 to just below 1 is wanted")),
            None => Ok(()),
        }
    }
}
