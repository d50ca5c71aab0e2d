//! The joint-embedding model for visual question answering, on libtorch.
//!
//! Anything that turns a [`ModelInput`] into a [`ModelOutput`] is a [`VqaModel`], and can be trained and asked
//! questions.
//!
//! - [`baseline`]: [`Baseline`](baseline::Baseline), the article's model. A word embedding and a recurrent network
//!   encode the question, top-down attention uses it to weight the image regions, two layers project the question and
//!   the attended regions into one space, where they are multiplied, and a classifier scores the answers.
//! - [`backbone`]: pretrained networks that extract region features from pictures.
//! - [`loss`]: what logits mean, and how far they are from the soft targets.
//! - [`feed`]: brings batches of `vqa-data` to a [`device`].
//! - [`weights`]: parameters in files, with the names and shapes of the PyTorch module, so that
//!   [`save_weights`](weights::save_weights) and [`load_weights`](weights::load_weights) exchange them with PyTorch.
//! - [`run`]: the contents of a run's directory.
//!
//! # Example
//!
//! ```
//! use tch::{Device, Kind, Tensor, nn::VarStore};
//! use vqa_model::baseline::{Baseline, ModelConfig};
//! use vqa_model::{DataDims, DropoutSeed, ModelInput, VqaModel};
//!
//! let vs = VarStore::new(Device::Cpu);
//! let dims = DataDims { n_words: 50, n_answers: 10, feature_dim: 16 };
//! let model = Baseline::new(vs.root(), &ModelConfig::default(), dims);
//!
//! // Three questions about two images of five regions each.
//! let input = ModelInput {
//!     tokens: Tensor::from_slice2(&[[50i64, 3, 4], [50, 7, 1], [2, 9, 4]]),
//!     features: Tensor::randn([2, 5, 16], (Kind::Float, Device::Cpu)),
//!     boxes: Tensor::zeros([2, 5, 4], (Kind::Float, Device::Cpu)),
//!     image_rows: Tensor::from_slice(&[0i64, 1, 1]),
//!     padding: None,
//!     dropout: None,
//!     order: None,
//! };
//! let output = model.forward(&input, false);
//! assert_eq!(output.logits.size(), [3, 10]);
//! assert_eq!(output.attention.size(), [3, 5]);
//! ```

#![deny(missing_docs)]

mod cpu;
mod error;
mod model;

pub mod backbone;
pub mod baseline;
pub mod device;
pub mod feed;
pub mod loss;
pub mod memory;
pub mod run;
pub mod slice;
pub mod weights;

pub use crate::{
    error::{Error, Result},
    model::{DataDims, DropoutSeed, ModelInput, ModelOutput, TrainingPass, VqaModel},
};
