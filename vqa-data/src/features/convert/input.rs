//! What all input formats have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::fill::Scratch;
use crate::features::table::ImageEntry;

/// A file or folder of one format, opened and indexed. Its images are numbered from 0.
pub(super) trait Input: Send + Sync {
    /// The images, in order.
    fn images(&self) -> &[IndexedImage];

    /// The best type to store the features in.
    fn element_type(&self) -> ElementType;

    /// How the regions were extracted, if known.
    fn extractor(&self) -> Option<&ExtractorInfo> {
        None
    }

    /// Named values about the source that go into the new file. Most formats have none.
    fn attributes(&self) -> BTreeMap<String, Vec<f64>> {
        BTreeMap::new()
    }

    /// Reads an image into `scratch.regions`.
    fn read(&self, image: usize, scratch: &mut Scratch) -> Result<(), Unreadable>;
}

/// An image of an [`Input`].
pub(super) struct IndexedImage {
    pub(super) entry: ImageEntry,
    /// Length of its feature vectors.
    pub(super) feature_dim: usize,
    pub(super) path: PathBuf,
    /// Its line, counted from 1, if the format has lines.
    pub(super) line: Option<usize>,
}

/// Why an image cannot be read.
pub(super) enum Unreadable {
    /// The data is not the regions of an image.
    Malformed(String),
    /// The system could not read it.
    Error(Error),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Unreadable {
        Unreadable::Error(error)
    }
}

/// How much [`Collection::open`](crate::features::Collection::open) checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Only what is needed to list the images. A problem with an image's values shows when it is converted, and ends
    /// the conversion.
    Index,
    /// Every value too, so that all bad images are known before converting. This takes about as long as converting.
    Everything,
}
