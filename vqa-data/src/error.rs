use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::features::bad_image::BadImage;
use crate::message::in_plain_words;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error from an underlying library: HDF5, an image decoder, a parser.
type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The error type of this crate, with one variant for each cause.
///
/// An error's message is complete: it names the file, the position in it and the remedy, and includes what the
/// operating system or a library said. [`source`](std::error::Error::source) returns that underlying error for programs
/// to inspect; printing it after the message would repeat it.
///
/// ```
/// use vqa_data::Error;
/// use vqa_data::questions::read_questions;
///
/// match read_questions("no_such_file.json".as_ref()) {
///     Err(Error::NotFound { path, .. }) => println!("give another path than {}", path.display()),
///     Err(Error::Json { source, .. }) => println!("mend line {}", source.line()),
///     Err(Error::Damaged { path, .. }) => println!("download {} again", path.display()),
///     Err(error) if error.is_retryable() => println!("try again later: {error}"),
///     Err(error) => println!("{error}"),
///     Ok(questions) => println!("{} questions", questions.len()),
/// }
/// ```
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file or directory of that name.
    #[error("cannot {action} {}: no such file or directory; {}", path.display(), remedy_for_missing(path))]
    NotFound {
        /// The file.
        path: PathBuf,
        /// What was attempted: `read`, `write` …
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// The operating system refused to read or write a file: no permission, a full disk, a lost connection.
    #[error("cannot {action} {}: {}", path.display(), IoProblem(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted: `read`, `write` …
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// The operating system has no memory left for a file.
    #[error(
        "cannot {action} {}: out of memory: close other programs, or use a machine with more memory",
        path.display()
    )]
    OutOfMemory {
        /// The file.
        path: PathBuf,
        /// What was attempted: `read`, `write` …
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file that is not JSON, or ends too early, or lacks a field.
    #[error("{}: {}", path.display(), JsonProblem(source))]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error, with line and column.
        source: serde_json::Error,
    },
    /// A file of the right kind with invalid content: cut short, with impossible sizes, or not decodable.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
        /// The decoder's error, if a decoder rejected the file.
        source: Option<BoxedError>,
    },
    /// A file that may be valid, but is not of the expected kind.
    #[error("{}: {problem}", path.display())]
    WrongFormat {
        /// The file or directory.
        path: PathBuf,
        /// What it is, what is expected, and the remedy.
        problem: String,
        /// The decoder's error, if a decoder was tried.
        source: Option<BoxedError>,
    },
    /// A file that is still being written, or whose writing was interrupted.
    #[error(
        "{}: unfinished: to resume it, run the command that writes {} again",
        path.display(),
        destination.display()
    )]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// The name that it will have when complete.
        destination: PathBuf,
    },
    /// Files, or parts of a file, that are each valid but do not match.
    #[error("{message}")]
    Mismatch {
        /// The files, or other sources of regions, as far as they are known here.
        paths: Vec<PathBuf>,
        /// What does not match, with the names of the files, and the remedy.
        message: String,
    },
    /// An id, a word or an answer that appears twice where it must be unique.
    #[error("{message}")]
    Duplicate {
        /// The files that contain it.
        paths: Vec<PathBuf>,
        /// What appears twice, with the names of the files, and the remedy.
        message: String,
    },
    /// An image that cannot be converted.
    #[error("{0}")]
    BadImage(BadImage),
    /// Unusable images in a folder.
    #[error("{}", AllBad(.0))]
    BadImages(Vec<BadImage>),
    /// Region features that are NaN or infinite.
    #[error(
        "{}: image {image_id} (row {row}) has NaN or infinite features: extract it again, or remove it from the \
         questions (`vqa features inspect` counts all such images)",
        path.display()
    )]
    NotFinite {
        /// The feature file.
        path: PathBuf,
        /// An image with such features.
        image_id: u64,
        /// Its row.
        row: usize,
    },
    /// A file or directory to be written already exists, and must not be replaced.
    #[error("{}: {problem}", path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
        /// What is there, and the remedy.
        problem: String,
    },
    /// Another process has the file locked.
    #[error("{}: {problem}", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// What the other process is doing, and the remedy.
        problem: String,
        /// The library's error, if the library detected the lock.
        source: Option<BoxedError>,
    },
    /// A setting, an argument or a value that cannot be used.
    #[error("{message}")]
    Invalid {
        /// What it is, and what is expected instead.
        message: String,
    },
    /// An error from a [`RegionSource`](crate::features::RegionSource) or an extractor outside this crate.
    #[error(transparent)]
    Other(BoxedError),
    /// Like [`Error::Other`], but not because of the input: memory was short, for example.
    #[error(transparent)]
    Transient(BoxedError),
}

impl Error {
    /// Returns a closure for `map_err` that turns an I/O error into an [`Error`] about the failed `action` on `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { path, action, source },
            io::ErrorKind::OutOfMemory => Error::OutOfMemory { path, action, source },
            _ => Error::Io { path, action, source },
        }
    }

    /// Creates an [`Error::Other`] from an error or just a message.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Other(error.into())
    }

    /// Creates an [`Error::Transient`] from an error or just a message.
    pub fn transient(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Transient(error.into())
    }

    /// Whether the same call may succeed later with unchanged input: if the operating system refused, for example
    /// because a disk is full, memory is short, or a network drive is unavailable. What was written so far is then
    /// worth keeping.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::NotFound { .. } | Error::Io { .. } | Error::OutOfMemory { .. } | Error::Transient(_))
    }

    /// Creates an [`Error::Damaged`] without a source.
    pub fn damaged(path: &Path, problem: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_owned(), problem: problem.into(), source: None }
    }

    /// Creates an [`Error::WrongFormat`] without a source.
    pub fn wrong_format(path: &Path, problem: impl Into<String>) -> Error {
        Error::WrongFormat { path: path.to_owned(), problem: problem.into(), source: None }
    }

    pub(crate) fn exists(path: &Path, problem: impl Into<String>) -> Error {
        Error::Exists { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid { message: message.into() }
    }

    /// Creates an [`Error::Mismatch`] between one file and something else.
    pub fn mismatch(path: &Path, problem: impl fmt::Display) -> Error {
        Error::Mismatch { paths: vec![path.to_owned()], message: format!("{}: {problem}", path.display()) }
    }

    /// Creates an [`Error::Duplicate`] for one file.
    pub(crate) fn duplicate(path: &Path, problem: impl fmt::Display) -> Error {
        Error::Duplicate { paths: vec![path.to_owned()], message: format!("{}: {problem}", path.display()) }
    }

    /// Turns an error about an image's content into a [`BadImage`]. Any other error, such as the system's, is returned
    /// as is.
    #[cfg(feature = "images")]
    pub(crate) fn into_bad_image(self) -> Result<BadImage> {
        match self {
            Error::Damaged { path, problem, .. } | Error::WrongFormat { path, problem, .. } => {
                Ok(BadImage { path, line: None, problem })
            }
            other => Err(other),
        }
    }

    /// Attaches the underlying error as the source, for variants whose source is optional.
    pub(crate) fn because(mut self, error: impl Into<BoxedError>) -> Error {
        if let Error::Damaged { source, .. } | Error::WrongFormat { source, .. } | Error::InUse { source, .. } =
            &mut self
        {
            *source = Some(error.into());
        }
        self
    }
}

/// Displays the problem of the first of several bad images, and the names of the others.
struct AllBad<'a>(&'a [BadImage]);

impl fmt::Display for AllBad<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 20;
        let Some((first, others)) = self.0.split_first() else { return f.write_str("no picture can be used") };
        write!(f, "{first}")?;
        if others.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = others.iter().take(NAMED).map(|bad| bad.path.display().to_string()).collect();
        write!(f, "; {} pictures cannot be used, the others are {}", self.0.len(), names.join(", "))?;
        match others.len().saturating_sub(NAMED) {
            0 => Ok(()),
            n => write!(f, " and {n} more"),
        }
    }
}

/// What to do about a path that does not exist.
fn remedy_for_missing(path: &Path) -> &'static str {
    match path.iter().any(|part| part.as_encoded_bytes().starts_with(b"~")) {
        true => "only a shell expands \"~\": write out the home directory",
        false => "check the path",
    }
}

/// Displays an I/O error with its remedy.
struct IoProblem<'a>(&'a io::Error);

impl fmt::Display for IoProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            io::ErrorKind::StorageFull => {
                f.write_str("no space left on the disk: free some, and run the command again")
            }
            io::ErrorKind::FileTooLarge => f.write_str(
                "the file would be larger than the limit of this process or of the disk: raise it (`ulimit -f \
                 unlimited`), and run the command again",
            ),
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                f.write_str("there is a file where a directory is needed: choose another path")
            }
            io::ErrorKind::PermissionDenied => f.write_str("permission denied; check the file's owner and mode"),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// Displays a JSON error with its remedy.
struct JsonProblem<'a>(&'a serde_json::Error);

impl fmt::Display for JsonProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_eof() {
            write!(
                f,
                "the JSON ends in the middle, at line {} column {} (an interrupted copy or download?): \
                 fetch the file again",
                self.0.line(),
                self.0.column()
            )
        } else {
            f.write_str(&in_plain_words(&self.0.to_string()))
        }
    }
}
