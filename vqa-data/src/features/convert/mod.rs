//! Conversion of region features in the common formats to feature files.
//!
//! Each format is an `Input`, which lists its images and reads one at a time. A [`Collection`] is one or more of them,
//! and sets aside images that are malformed or duplicates; each [`Output`] gets some of its images.

pub(crate) mod collection;
pub(crate) mod hdf5;
pub(crate) mod id_list;
pub(crate) mod input;
pub(crate) mod npz;
pub(crate) mod tsv;

pub use self::{
    collection::{Collection, Output},
    id_list::read_image_ids,
    input::Check,
};
