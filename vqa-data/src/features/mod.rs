//! The regions of images: where they come from, and the HDF5 files that they are kept in.
//!
//! A [`RegionSource`] is where regions come from; a [`FeatureFile`] is one, memory-mapped. A [`FeatureWriter`] writes such files;
//! a [`Collection`] makes them of files in other forms, an [`Extraction`] of pictures, either of them in [`Shard`]s.

pub(crate) mod bad_image;
pub(crate) mod convert;
pub(crate) mod extract;
pub(crate) mod file;
pub(crate) mod fill;
pub(crate) mod finite;
pub(crate) mod image_ids;
pub(crate) mod image_name;
pub(crate) mod inspect;
pub(crate) mod shard;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod writer;

pub use self::{
    bad_image::BadImage,
    convert::{Check, Collection, Output},
    extract::{ChannelStats, Extraction, Grid, Picture, list_pictures, read_picture},
    file::FeatureFile,
    inspect::{FeatureSummary, LoadSpeed},
    shard::Shard,
    source::{ImageRegions, RegionSource},
    table::{ElementType, FeatureTable, ImageEntry},
    writer::FeatureWriter,
};
