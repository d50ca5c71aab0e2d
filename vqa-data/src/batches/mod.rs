//! Batches of questions with the regions of their images, prepared ahead of time.
//!
//! A [`Dataset`] is a split encoded with the dictionaries, joined with one
//! [`RegionSource`](crate::features::RegionSource) for each of its sources. A [`Loader`] cuts it into [`Batch`]es on
//! a thread of its own, in the order of a [`Sampler`]. A batch's features are a [`Buffer`], whose memory goes back to
//! the loader when the batch is dropped.

pub(crate) mod batch;
pub(crate) mod buffer;
pub(crate) mod dataset;
pub(crate) mod fingerprint;
pub(crate) mod loader;
#[cfg(feature = "hdf5")]
pub(crate) mod open;
pub(crate) mod sampler;
pub(crate) mod share;

#[cfg(feature = "hdf5")]
pub use self::open::{check_features, open_sources};
pub use self::{
    batch::{Batch, FullBatch},
    buffer::Buffer,
    dataset::Dataset,
    fingerprint::DatasetFingerprint,
    loader::{Batches, Loader, LoaderOptions},
    sampler::Sampler,
    share::Share,
};
