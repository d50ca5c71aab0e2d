//! Pretrained networks, which make features of pictures.
//!
//! A [`Backbone`] takes a batch of standardised pictures to a map of features, or, where it is a detector, to boxes
//! with features and scores. [`open`] makes one from its name. A [`BackboneExtractor`] makes regions with it, and
//! [`extractor_of`] makes the extractor again that a feature file or a checkpoint describes.

#[allow(clippy::module_inception)]
pub(crate) mod backbone;
pub(crate) mod detections;
pub(crate) mod extractor;
pub(crate) mod extractor_of;
mod extractor_settings;
pub(crate) mod open;
pub(crate) mod preprocessing;

pub use self::{
    backbone::{Backbone, BackboneInfo, BackboneKind, BackboneOutput},
    detections::{Detections, Selection},
    extractor::{BackboneExtractor, ExtractorOptions, Regions},
    extractor_of::extractor_of,
    open::{NAMES, OpenOptions, open, open_with},
    preprocessing::{ChannelOrder, InputSize, Preprocessing},
};
