use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Data(#[from] vqa_data::Error),
    /// A file of weights that cannot be used.
    #[error("{}: {problem}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// The directory of a run that cannot be used.
    #[error("{}: {problem}", path.display())]
    Run {
        /// A file in it.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// A device that cannot be used.
    #[error("{0}")]
    Device(String),
}
