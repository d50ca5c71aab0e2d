//! Pretrained networks that compute features of pictures.
//!
//! A [`Backbone`] turns a batch of standardised pictures into a map of features or, if it is a detector, into boxes
//! with features and scores. [`open`] opens one by its name. A [`BackboneExtractor`] extracts regions with it, and
//! [`extractor_of`] recreates the extractor that a feature file or a checkpoint describes.
//!
//! In float32, the maps of the built-in networks differ from PyTorch's by at most 1e-4 of their largest value. Batch
//! norm is folded into the convolutions, and the channels of a pixel are adjacent in memory (channels-last).
//!
//! ```no_run
//! use tch::{Device, Kind, Tensor};
//! use vqa_model::backbone::{self, BackboneOutput};
//!
//! # fn main() -> vqa_model::Result<()> {
//! let network = backbone::open("efficientnet-lite0", None, Device::Cpu)?;
//! let pixels = Tensor::zeros([1, 224, 320, 3], (Kind::Uint8, Device::Cpu));
//! let pictures = network.info().preprocessing.standardise(&pixels);
//! let BackboneOutput::Map(map) = network.forward(&pictures)? else { unreachable!("it is no detector") };
//! assert_eq!(map.size(), [1, 1280, 7, 10]);
//! # Ok(())
//! # }
//! ```

mod architecture;
#[allow(clippy::module_inception)]
pub(crate) mod backbone;
pub(crate) mod convnet;
pub(crate) mod detections;
mod efficientnet_lite;
pub(crate) mod extractor;
pub(crate) mod extractor_of;
pub(crate) mod extractor_options;
mod extractor_settings;
mod failure;
pub(crate) mod location;
mod mobilenet_v2;
pub(crate) mod open;
pub(crate) mod preprocessing;
pub(crate) mod torchscript;

pub use self::{
    backbone::{Backbone, BackboneInfo, BackboneKind, BackboneOutput},
    convnet::ConvNet,
    detections::{Detections, Selection},
    extractor::BackboneExtractor,
    extractor_of::extractor_of,
    extractor_options::{ExtractorOptions, Regions},
    location::{BACKBONES_VARIABLE, find_weights},
    open::{NAMES, OpenOptions, open, open_built_in, open_with},
    preprocessing::{ChannelOrder, InputSize, Preprocessing, PreprocessingOptions},
    torchscript::TorchScript,
};
