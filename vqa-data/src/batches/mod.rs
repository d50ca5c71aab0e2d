//! Questions with the regions of their images, in batches, ahead of time.
//!
//! A [`Dataset`] is a split, encoded, with the regions of its images; a [`Loader`] cuts it into [`Batch`]es, in the order of a
//! [`Sampler`].

pub(crate) mod batch;
pub(crate) mod buffer;
pub(crate) mod dataset;
pub(crate) mod loader;
pub(crate) mod sampler;

pub use self::{
    batch::Batch,
    buffer::Buffer,
    dataset::Dataset,
    loader::{Batches, Loader, LoaderOptions},
    sampler::Sampler,
};
