use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::features::bad_image::BadImage;
use crate::message::in_plain_words;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Its message is whole, without a chain of sources: it names the file, the place in it, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {}", path.display(), IoProblem(cause))]
    Io {
        /// The file.
        path: PathBuf,
        /// The verb: `read`, `write` …
        action: &'static str,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// A JSON file that is not what it should be.
    #[error("{}: {}", path.display(), JsonProblem(cause))]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's answer, with line and column.
        cause: serde_json::Error,
    },
    /// A file that can be read but not used: the wrong kind, damaged, or in conflict with another.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// An image that cannot be converted.
    #[error("{0}")]
    BadImage(BadImage),
    /// Questions, annotations and features that do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// Region features that are NaN or infinite.
    #[error(
        "{}: {n_images} image(s) have NaN or infinite features, the first is image {image_id} (row {row}): extract those images again, or take them out of the questions",
        path.display()
    )]
    NotFinite {
        /// The feature file.
        path: PathBuf,
        /// How many images of the file are affected.
        n_images: usize,
        /// The first of them, in the order of the file.
        image_id: u64,
        /// Its row.
        row: usize,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`, for use with `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |cause| Error::Io { path, action, cause }
    }

    /// An [`Error::File`] for `path`.
    pub fn file(path: &Path, problem: impl Into<String>) -> Error {
        Error::File { path: path.to_owned(), problem: problem.into() }
    }

    /// What HDF5 says of `path`, with a remedy where its message gives the cause away.
    pub(crate) fn hdf5(path: &Path, error: &hdf5::Error) -> Error {
        let text = error.to_string();
        let problem = if text.contains("truncated file") {
            "the file is shorter than its header says (an interrupted copy or download?): fetch it again".to_owned()
        } else if text.contains("No space left") {
            "no space left on the disk: free some, and run the command again".to_owned()
        } else if text.contains("file signature not found") {
            "not an HDF5 file; `vqa features convert` makes one of TSV files and of folders of .npz".to_owned()
        } else {
            format!("HDF5 reports: {text}")
        };
        Error::file(path, problem)
    }
}

/// An I/O error and its remedy.
struct IoProblem<'a>(&'a io::Error);

impl fmt::Display for IoProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            io::ErrorKind::NotFound => f.write_str("no such file or directory; check the path"),
            io::ErrorKind::StorageFull => {
                f.write_str("no space left on the disk: free some, and run the command again")
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
                "the JSON ends in the middle, at line {} column {} (an interrupted copy or download?): fetch the file again",
                self.0.line(),
                self.0.column()
            )
        } else {
            f.write_str(&in_plain_words(&self.0.to_string()))
        }
    }
}
