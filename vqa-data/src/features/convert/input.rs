//! What all input formats have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::fill::Scratch;
use crate::features::table::ImageEntry;

/// A file or folder of one format, opened and indexed. Its images are counted from 0.
pub(super) trait Input: Send + Sync {
    /// The images, in order.
    fn images(&self) -> &[Indexed];

    /// How the features are best stored.
    fn element_type(&self) -> ElementType;

    /// How the regions were made, where that is known.
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
pub(super) struct Indexed {
    pub(super) entry: ImageEntry,
    /// Length of its feature vectors.
    pub(super) feature_dim: usize,
    pub(super) path: PathBuf,
    /// Its line, from 1 on, where the format has lines.
    pub(super) line: Option<usize>,
}

/// Why an image cannot be read.
pub(super) enum Unreadable {
    /// What is there is not an image's regions.
    Malformed(String),
    /// The system refused.
    Error(Error),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Unreadable {
        Unreadable::Error(error)
    }
}

/// How closely [`Collection::open`](crate::features::Collection::open) looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// At what says which images there are. What is wrong with an image's values shows when it is converted, and ends
    /// the conversion.
    Index,
    /// At every value too, which takes about as long as converting, so that all bad images are known before.
    Everything,
}
