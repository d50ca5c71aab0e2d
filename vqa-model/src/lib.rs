//! The joint-embedding model for visual question answering, on libtorch.
//!
//! [`Baseline`] is the model: a [`WordEmbedding`] and a [`QuestionEmbedding`] read the question, [`TopdownAttention`]
//! weighs the regions by it, an [`FCNet`] each for question and attended regions brings both into one space,
//! where they are multiplied, and [`SimpleClassifier`] scores the answers. Its parameters have the names
//! and shapes of the PyTorch module, so that [`save_weights`] and [`load_weights`] exchange them with PyTorch; `.pth` files are read too.
//!
//! Anything that turns a [`ModelInput`] into a [`ModelOutput`] is a [`VqaModel`], and can be trained and asked
//! as `Baseline` can. [`ModelInput::from_batch`] copies a batch of `vqa-data` to a device, which [`parse_device`] finds.
//!
//! # Example
//!
//! ```
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! use vqa_model::{Baseline, DataDims, ModelConfig, ModelInput, VqaModel};
//!
//! let vs = VarStore::new(Device::Cpu);
//! let dims = DataDims { n_words: 50, n_answers: 10, feature_dim: 16 };
//! let model = Baseline::new(vs.root(), &ModelConfig::default(), dims);
//!
//! // Three questions about two images of five regions each.
//! let input = ModelInput {
//!     tokens: Tensor::from_slice2(&[[50i64, 3, 4], [50, 7, 1], [2, 9, 4]]),
//!     features: Tensor::randn([2, 5, 16], (Kind::Float, Device::Cpu)),
//!     image_rows: Tensor::from_slice(&[0i64, 1, 1]),
//!     padding: None,
//! };
//! let output = model.forward(&input, false);
//! assert_eq!(output.logits.size(), [3, 10]);
//! assert_eq!(output.attention.size(), [3, 5]);
//! ```

#![deny(missing_docs)]

mod baseline;
mod config;
mod device;
mod error;
mod fc;
mod fused;
mod language_model;
mod model;
mod pth;
mod topdown_attention;
mod weights;

pub use crate::{
    baseline::{Baseline, DataDims},
    config::{AttentionConfig, AttentionKind, ClassifierConfig, LanguageModelConfig, LossKind, ModelConfig, RnnKind},
    device::parse_device,
    error::{Error, Result},
    fc::{FCNet, SimpleClassifier, WeightNormLinear},
    language_model::{QuestionEmbedding, WordEmbedding},
    model::{ModelInput, ModelOutput, TrainingPass, VqaModel},
    pth::read_pth,
    topdown_attention::{ConcatAttention, ProductAttention, TopdownAttention},
    weights::{Header, load_weights, read_header, read_tensors, save_weights, write_tensors},
};
