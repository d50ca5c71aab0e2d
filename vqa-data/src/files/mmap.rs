//! Files as memory. The only unsafe code of this crate.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a whole file into memory, read-only.
///
/// # Errors
///
/// When the file is missing or not a regular file.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    if !file.metadata().map_err(Error::io("read", path))?.is_file() {
        return Err(Error::wrong_format(path, "not a file"));
    }
    // SAFETY: the map is undefined behaviour if another process changes the file, or cuts it short, while
    // it is mapped. Nothing can rule that out; like every program that maps its input, this one asks for it
    // in the documentation, and its own writers never touch a file in place (see `atomic`).
    let map = unsafe { Mmap::map(&file) };
    map.map_err(Error::io("read", path))
}
