use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Questions, features or files could not be read or written.
    #[error(transparent)]
    Data(#[from] vqa_data::Error),
    /// Weights or a device could not be used.
    #[error(transparent)]
    Model(#[from] vqa_model::Error),
    /// The directory of a run that cannot be written or continued.
    #[error("{}: {problem}", path.display())]
    Run {
        /// The directory, or a file in it.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss is {loss} at epoch {epoch}, batch {batch} (question ids {}): lower train.optim.lr or clip the gradients; checkpoints of epochs before are intact",
        question_ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    )]
    Diverged {
        /// The loss.
        loss: f64,
        /// The epoch, counted from 1.
        epoch: u64,
        /// The batch in it, counted from 1.
        batch: usize,
        /// The first few questions of the batch.
        question_ids: Vec<u64>,
    },
}
