/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Questions, features, pictures or files could not be read or written.
    #[error(transparent)]
    Data(#[from] vqa_data::Error),
    /// Weights or a device could not be used.
    #[error(transparent)]
    Model(#[from] vqa_model::Error),
    /// A checkpoint that does not go with the files beside it, or with the data.
    #[error("{0}")]
    Checkpoint(String),
}
