//! What the forms have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::features::element_type::ElementType;
use crate::features::fill::Scratch;
use crate::features::table::ImageEntry;

/// Files of one of the forms, opened and indexed. Its images have numbers, from 0 on.
pub(super) trait Input: Send + Sync {
    /// The images, in order.
    fn images(&self) -> &[Indexed];

    /// How the features are best stored.
    fn element_type(&self) -> ElementType;

    /// Numbers about the source that go into the new file. Most forms have none.
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
    /// Its line, from 1 on, where the form has lines.
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

/// How closely [`Collection::open`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// At what says which images there are. What is wrong with an image's numbers shows when it is converted, and ends the
    /// conversion.
    Index,
    /// At every number too, which takes about as long as converting, so that all bad images are known before.
    Everything,
}
