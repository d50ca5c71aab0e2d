use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate: what went wrong, and what to do about it.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Questions, features, pictures or files could not be read or written.
    #[error(transparent)]
    Data(#[from] vqa_data::Error),
    /// Weights or a device could not be used, or memory is full.
    #[error(transparent)]
    Model(#[from] vqa_model::Error),
    /// A checkpoint, the files beside it and the data do not belong together.
    #[error("{}: {problem}", path.display())]
    Mismatch {
        /// The file that does not match.
        path: PathBuf,
        /// What it does not match, and the remedy.
        problem: String,
    },
    /// An address that a server cannot listen on.
    #[cfg(feature = "serve")]
    #[error("{address}: {problem}")]
    Address {
        /// The address.
        address: std::net::SocketAddr,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// Another process that answers a share of the split has failed.
    #[error("{problem}")]
    OtherProcess {
        /// What is known about the failure.
        problem: String,
    },
    /// A split cannot be used as requested.
    #[error("{place}: {problem}")]
    Split {
        /// Where the split is described.
        place: String,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
}
