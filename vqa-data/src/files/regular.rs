//! Files that can be read to an end.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a file to read, unless it is a directory, a pipe or a device: reading those blocks, or never ends.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let read_error = || Error::io("read", path);
    // Opening a pipe waits for its writer.
    if !std::fs::metadata(path).map_err(read_error())?.is_file() {
        return Err(Error::wrong_format(path, "not a regular file but a directory, pipe or device: give a file"));
    }
    File::open(path).map_err(read_error())
}
