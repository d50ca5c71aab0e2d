//! The regions of images: where they come from, and the HDF5 files that store them.
//!
//! Batches take regions from a [`RegionSource`]. A [`FeatureFile`] is one, memory-mapped; a type of your own can be
//! another.
//!
//! A [`FeatureWriter`] writes such a file from a [`FeatureTable`], which says what will be in it, and the regions of
//! one image after another. It has two users: a [`Collection`] opens features in the other common formats (TSV, folders
//! of `.npz`, HDF5 in other layouts) and converts them; an [`Extraction`] extracts features from image files with an
//! [`Extractor`], which is a [`PixelGrid`] or a network of another crate. Either job can be split into [`Shard`]s, and
//! resumed if it was killed.
//!
//! Without the cargo feature `hdf5`, this module still has [`RegionSource`], [`ImageRegions`], [`ElementType`] and
//! [`ExtractorInfo`], and with `images` alone also [`Extractor`], [`PixelGrid`], [`list_images`] and [`read_image`].

pub(crate) mod bad_image;
pub(crate) mod element_type;
#[cfg(feature = "images")]
pub(crate) mod extractor;
pub(crate) mod extractor_info;
pub(crate) mod source;

#[cfg(feature = "hdf5")]
mod container;
#[cfg(feature = "hdf5")]
pub(crate) mod convert;
#[cfg(feature = "images")]
pub(crate) mod extract;
#[cfg(feature = "hdf5")]
pub(crate) mod file;
#[cfg(feature = "hdf5")]
pub(crate) mod fill;
#[cfg(any(feature = "hdf5", feature = "images"))]
pub(crate) mod finite;
#[cfg(feature = "hdf5")]
mod hdf5_error;
#[cfg(feature = "hdf5")]
pub(crate) mod image_ids;
pub(crate) mod image_name;
#[cfg(feature = "hdf5")]
pub(crate) mod inspect;
#[cfg(feature = "hdf5")]
pub(crate) mod shard;
#[cfg(feature = "hdf5")]
pub(crate) mod store;
#[cfg(feature = "hdf5")]
pub(crate) mod table;
#[cfg(feature = "hdf5")]
pub(crate) mod whole_number;
#[cfg(feature = "hdf5")]
pub(crate) mod writer;

#[cfg(all(feature = "hdf5", feature = "images"))]
pub use self::extract::{Extraction, ExtractionTime};
pub use self::{
    bad_image::BadImage,
    element_type::ElementType,
    extractor_info::ExtractorInfo,
    source::{ImageRegions, RegionSource},
};
#[cfg(feature = "hdf5")]
pub use self::{
    convert::{Check, Collection, Output, read_image_ids},
    file::FeatureFile,
    inspect::{FeatureSummary, LoadSpeed},
    shard::Shard,
    table::{FeatureTable, ImageEntry},
    writer::FeatureWriter,
};
#[cfg(feature = "images")]
pub use self::{
    extract::{
        ChannelStats, Filter, Grid, ImageFile, ImageFolder, NonImageFiles, PixelGrid, decode_image, list_images,
        read_image, read_image_size, read_upright_jpeg,
    },
    extractor::{Extractor, Prepared, RegionCount},
};
