//! HDF5's errors as errors of this crate.

use std::io;
use std::path::Path;

use crate::error::Error;

/// The error for a file that HDF5 could not open or read, with a remedy if its message reveals the cause.
pub(super) fn cannot_read(path: &Path) -> impl FnOnce(hdf5::Error) -> Error {
    move |source| {
        let text = source.to_string();
        let error = if text.contains("truncated file") {
            Error::damaged(
                path,
                "the file is shorter than its header says (an interrupted copy or download?): fetch it again",
            )
        } else if text.contains("file signature not found") {
            Error::wrong_format(
                path,
                "not an HDF5 file; `vqa features convert` makes one from TSV files or folders of .npz files",
            )
        } else if text.contains("Invalid UTF-8 in file name") {
            Error::wrong_format(path, "HDF5 opens only files whose path is UTF-8: rename it")
        } else if text.contains("unable to lock file") {
            Error::InUse { path: path.to_owned(), problem: format!("HDF5 reports: {text}"), source: None }
        } else {
            Error::damaged(path, format!("HDF5 reports: {text}"))
        };
        error.because(source)
    }
}

/// The error for a file that HDF5 could not write, which is always an I/O error.
pub(super) fn cannot_write(path: &Path) -> impl FnOnce(hdf5::Error) -> Error {
    move |source| {
        let text = source.to_string();
        // HDF5 reports system errors by their text.
        let kind = match () {
            () if text.contains("No space left") => io::ErrorKind::StorageFull,
            () if text.contains("File too large") => io::ErrorKind::FileTooLarge,
            () => io::ErrorKind::Other,
        };
        Error::io("write", path)(io::Error::new(kind, source))
    }
}
