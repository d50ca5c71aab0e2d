//! Pretrained networks, which make features of pictures.
//!
//! A [`Backbone`] takes a batch of standardised pictures to a map of features, or, where it is a detector, to boxes
//! with features and scores. [`open`] makes one from its name. A [`BackboneExtractor`] makes regions with it, and
//! [`extractor_of`] makes the extractor again that a feature file or a checkpoint describes.
//!
//! Those that are built in compute in float32 as PyTorch does, within 1e-4 of the largest value of a map; batch norm is
//! folded into the convolutions, which on a CPU see the channels of a pixel beside each other.
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
