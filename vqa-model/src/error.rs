use std::error::Error as StdError;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do about it. Each message is complete: it already includes that of its
/// [`source`](StdError::source).
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written; [`vqa_data::Error`] says why.
    #[error(transparent)]
    Data(#[from] vqa_data::Error),
    /// A file that is damaged, or contains no weights at all.
    #[error("{}: {problem}", path.display())]
    DamagedWeights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
        /// The error of the code that read it.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// Undamaged weights that do not fit: they belong to another model, have another dtype, or lack the necessary
    /// header.
    #[error("{}: {problem}", path.display())]
    WeightsMismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit, and the remedy.
        problem: String,
    },
    /// A run's `config.toml` that cannot be parsed, or lacks something necessary.
    #[error("{}: {}", path.display(), source.message())]
    RunConfig {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Box<toml::de::Error>,
    },
    /// A device that cannot be used.
    #[error("{0}")]
    Device(String),
    /// A backbone that is unknown, has no weights, or returns something invalid.
    #[error("{0}")]
    Backbone(String),
    /// The computer's or the GPU's memory is too small for a batch of pictures, or for a backbone.
    #[error("{name}: out of memory: take fewer pictures at a time (--batch-size), or smaller ones (--size)")]
    BackboneOutOfMemory {
        /// The backbone.
        name: String,
    },
    /// The computer's or the GPU's memory is full.
    #[error("out of memory: lower train.batch_size (or --batch-size), or the sizes in [model]")]
    OutOfMemory,
}

impl Error {
    /// Returns an [`Error::DamagedWeights`] with its source.
    pub(crate) fn damaged(
        path: &Path,
        problem: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Error {
        Error::DamagedWeights { path: path.to_owned(), problem: problem.into(), source: Some(Box::new(source)) }
    }

    /// Returns an [`Error::WeightsMismatch`].
    pub(crate) fn weights_mismatch(path: &Path, problem: impl Into<String>) -> Error {
        Error::WeightsMismatch { path: path.to_owned(), problem: problem.into() }
    }
}
