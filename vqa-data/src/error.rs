use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::features::bad_image::BadImage;
use crate::message::in_plain_words;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a library that this crate is built on: HDF5's, the image decoder's, a parser's.
type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong: one variant for each cause.
///
/// The message of an error is whole: it names the file, the place in it, and what to do, and repeats what the
/// operating system or a library said. [`source`](std::error::Error::source) is that underlying error, for programs
/// to look into; printing it after the message would say the same thing twice.
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
        /// What was to be done with it: `read`, `write` …
        action: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The operating system refused to read or write a file: no permission, a full disk, a lost connection.
    #[error("cannot {action} {}: {}", path.display(), IoProblem(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was to be done with it: `read`, `write` …
        action: &'static str,
        /// The operating system's answer.
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
        /// What was to be done with it: `read`, `write` …
        action: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file that is not JSON, or ends too early, or lacks a field.
    #[error("{}: {}", path.display(), JsonProblem(source))]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's answer, with line and column.
        source: serde_json::Error,
    },
    /// A file of the right kind whose content cannot be: cut short, of impossible sizes, not decodable.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
        /// The decoder's answer, if one gave up on the file.
        source: Option<BoxedError>,
    },
    /// A file that may be sound, but is of another kind than is wanted here.
    #[error("{}: {problem}", path.display())]
    WrongFormat {
        /// The file or directory.
        path: PathBuf,
        /// What it is, what is wanted, and the remedy.
        problem: String,
        /// The decoder's answer, if one was asked.
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
        /// The name that it will have.
        destination: PathBuf,
    },
    /// Files, or parts of a file, that are sound but do not fit each other.
    #[error("{message}")]
    Mismatch {
        /// The files, or what else regions come from, as far as it is known here.
        paths: Vec<PathBuf>,
        /// What does not fit what, with the names of the files, and the remedy.
        message: String,
    },
    /// The same id, word or answer twice where it must be unique.
    #[error("{message}")]
    Duplicate {
        /// The files that have it.
        paths: Vec<PathBuf>,
        /// What is there twice, with the names of the files, and the remedy.
        message: String,
    },
    /// An image that cannot be converted.
    #[error("{0}")]
    BadImage(BadImage),
    /// Images of a folder that cannot be used.
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
        /// An image that has them.
        image_id: u64,
        /// Its row.
        row: usize,
    },
    /// Something that must not be replaced has the name of a file or directory to be written.
    #[error("{}: {problem}", path.display())]
    Exists {
        /// The name.
        path: PathBuf,
        /// What is there, and the remedy.
        problem: String,
    },
    /// Another process has the file locked.
    #[error("{}: {problem}", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// What the other process does, and the remedy.
        problem: String,
        /// The library's answer, if it was the one that found the lock.
        source: Option<BoxedError>,
    },
    /// A setting, an argument or a value that cannot be used.
    #[error("{message}")]
    Invalid {
        /// What it is, and what is wanted instead.
        message: String,
    },
    /// An error of a [`RegionSource`](crate::features::RegionSource) outside this crate.
    #[error(transparent)]
    Other(BoxedError),
}

impl Error {
    /// The error for an operation on `path` that the operating system refused, for use with `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { path, action, source },
            io::ErrorKind::OutOfMemory => Error::OutOfMemory { path, action, source },
            _ => Error::Io { path, action, source },
        }
    }

    /// An [`Error::Other`], from an error or just a message.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Other(error.into())
    }

    /// Whether the same call may succeed later though nothing about its input is changed: the operating system
    /// refused, as it does while a disk is full, memory is short, or a network drive is away. What was written so far
    /// is then worth keeping.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::NotFound { .. } | Error::Io { .. } | Error::OutOfMemory { .. })
    }

    /// An [`Error::Damaged`].
    pub fn damaged(path: &Path, problem: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_owned(), problem: problem.into(), source: None }
    }

    /// An [`Error::WrongFormat`].
    pub fn wrong_format(path: &Path, problem: impl Into<String>) -> Error {
        Error::WrongFormat { path: path.to_owned(), problem: problem.into(), source: None }
    }

    pub(crate) fn exists(path: &Path, problem: impl Into<String>) -> Error {
        Error::Exists { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid { message: message.into() }
    }

    /// An [`Error::Mismatch`] of one file with something else.
    pub fn mismatch(path: &Path, problem: impl fmt::Display) -> Error {
        Error::Mismatch { paths: vec![path.to_owned()], message: format!("{}: {problem}", path.display()) }
    }

    /// An [`Error::Duplicate`] in one file.
    pub(crate) fn duplicate(path: &Path, problem: impl fmt::Display) -> Error {
        Error::Duplicate { paths: vec![path.to_owned()], message: format!("{}: {problem}", path.display()) }
    }

    /// What is wrong with an image, if it is the image and not the system that an error is about.
    #[cfg(feature = "images")]
    pub(crate) fn into_bad_image(self) -> Result<BadImage> {
        match self {
            Error::Damaged { path, problem, .. } | Error::WrongFormat { path, problem, .. } => {
                Ok(BadImage { path, line: None, problem })
            }
            other => Err(other),
        }
    }

    /// The same error, with the underlying one that it explains.
    pub(crate) fn because(mut self, error: impl Into<BoxedError>) -> Error {
        if let Error::Damaged { source, .. } | Error::WrongFormat { source, .. } | Error::InUse { source, .. } =
            &mut self
        {
            *source = Some(error.into());
        }
        self
    }
}

/// The first of some bad images, and the names of the others.
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

/// An I/O error and its remedy.
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

/// A JSON error and its remedy.
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
