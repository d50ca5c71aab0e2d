use std::fmt;
use std::path::PathBuf;

use crate::position::Position;
use crate::run::change::Change;

impl Error {
    /// Whether every process of the run gets this error, rather than this one alone.
    pub fn is_of_collective(&self) -> bool {
        matches!(self, Error::Collective { .. } | Error::OtherProcess { .. } | Error::Differs { .. })
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do about it. Each message is complete: it already includes that of its
/// [`source`](std::error::Error::source).
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Questions, features or files could not be read or written.
    #[error(transparent)]
    Data(#[from] vqa_data::Error),
    /// Weights or a device could not be used.
    #[error(transparent)]
    Model(#[from] vqa_model::Error),
    /// A run in which a file is missing or does not fit the others.
    #[error("{}: {problem}", path.display())]
    Run {
        /// The run's directory, or a file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// A file of a run that is damaged.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// Another process is training in the directory.
    #[error(
        "{}: another process is training in it: wait for it to finish, or choose another out_dir",
        out_dir.display()
    )]
    Locked {
        /// The directory.
        out_dir: PathBuf,
    },
    /// The directory already contains this run, and resuming it was not requested.
    #[error(
        "{}: it already contains this run, saved after {position}: resume it with --resume, or choose another out_dir",
        out_dir.display()
    )]
    RunExists {
        /// The directory.
        out_dir: PathBuf,
        /// Where the run stands.
        position: Position,
    },
    /// The directory contains a run with another config, and resuming it was not requested.
    #[error(
        "{}: it contains a run with a different config ({}): choose another out_dir, or resume that run",
        out_dir.display(),
        in_words(changes)
    )]
    AnotherRun {
        /// The directory.
        out_dir: PathBuf,
        /// The keys that differ.
        changes: Vec<Change>,
    },
    /// A run cannot be resumed with a different value for a key.
    #[error(
        "{}: --resume cannot change {}: choose another out_dir, or resume with the run's own config",
        out_dir.display(),
        in_words(changes)
    )]
    CannotChange {
        /// The directory.
        out_dir: PathBuf,
        /// The keys that differ but may not.
        changes: Vec<Change>,
    },
    /// The processes of a run can no longer reach each other.
    #[error("{problem}")]
    Collective {
        /// Which processes are gone, as far as that is known.
        problem: String,
    },
    /// Another process of the run has failed.
    #[error("process {rank} failed, so all processes stop: {problem}")]
    OtherProcess {
        /// Its rank.
        rank: usize,
        /// Its error message.
        problem: String,
    },
    /// The processes of a run were started with different inputs.
    #[error(
        "{what} must be the same for all processes, but process {rank} differs from process 0: {theirs}, not {of_first}"
    )]
    Differs {
        /// What differs.
        what: String,
        /// The first process that differs from process 0.
        rank: usize,
        /// Its value.
        theirs: String,
        /// The value of process 0.
        of_first: String,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss is {loss} at epoch {epoch}, batch {batch}, step {step} (question ids {} …): {LOWER}; {}",
        question_ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        Saved(saved, CHANGED)
    )]
    Diverged {
        /// The loss.
        loss: f64,
        /// The epoch, counted from 1.
        epoch: u64,
        /// The batch in it, counted from 1.
        batch: u64,
        /// The step since the start of the run, counted from 1.
        step: u64,
        /// The first few questions of the batch.
        question_ids: Vec<u64>,
        /// What was saved before.
        saved: SavedFiles,
    },
    /// The loss of a validation is NaN or infinite.
    #[error("the validation loss is {loss} after epoch {epoch}, step {step}: {LOWER}; {}", Saved(saved, CHANGED))]
    ValidationDiverged {
        /// The loss.
        loss: f64,
        /// The epoch, counted from 1.
        epoch: u64,
        /// Steps since the start of the run.
        step: u64,
        /// What was saved before.
        saved: SavedFiles,
    },
    /// A gradient or a step was NaN or infinite, although every loss so far was finite.
    #[error(
        "\"{tensor}\" has NaN or infinite values at step {step}, and was not saved: {LOWER}; {}",
        Saved(saved, CHANGED)
    )]
    NotFinite {
        /// The name of a weight, or of a tensor of the optimiser.
        tensor: String,
        /// Steps since the start of the run.
        step: u64,
        /// What was saved before.
        saved: SavedFiles,
    },
    /// The computer's or the GPU's memory is full.
    #[error(
        "out of memory: lower train.batch_size (now {batch_size}), or the sizes in [model]{}; {}",
        if *features_on_device { ", or set train.features_on_device = \"never\"" } else { "" },
        Saved(saved, WITH_MEMORY)
    )]
    OutOfMemory {
        /// Questions in a batch.
        batch_size: usize,
        /// Whether the features of all images may be in the same memory.
        features_on_device: bool,
        /// What was saved before.
        saved: SavedFiles,
    },
}

fn in_words(changes: &[Change]) -> String {
    changes.iter().map(Change::to_string).collect::<Vec<_>>().join("; ")
}

/// The remedy for NaN.
const LOWER: &str = "lower train.optim.lr, or train.max_grad_norm with train.clip_grad = true";

/// A resume accepts the keys in [`LOWER`].
const CHANGED: &str = ", with these keys changed too";

/// A resume cannot change the keys that save memory.
const WITH_MEMORY: &str = " with the same config where there is more memory";

/// What a failed run has saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavedFiles {
    /// Nothing was saved before.
    Nothing,
    /// A state to resume from.
    State {
        /// The state's file.
        path: PathBuf,
        /// The steps that had been made when it was saved.
        step: u64,
        /// The last checkpoint, if there is one.
        checkpoint: Option<PathBuf>,
    },
    /// A state that cannot be read, and why.
    Unreadable(String),
}

/// Displays what a run has saved, and how it can be resumed.
struct Saved<'a>(&'a SavedFiles, &'a str);

impl fmt::Display for Saved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Saved(saved, with) = self;
        match saved {
            SavedFiles::Nothing => f.write_str("nothing was saved before"),
            SavedFiles::State { path, step, checkpoint } => {
                write!(f, "still intact: {} (of step {step})", path.display())?;
                if let Some(checkpoint) = checkpoint {
                    write!(f, " and {}", checkpoint.display())?;
                }
                write!(f, "; --resume continues from there{with}")
            }
            SavedFiles::Unreadable(why) => write!(f, "what was saved before cannot be read: {why}"),
        }
    }
}
