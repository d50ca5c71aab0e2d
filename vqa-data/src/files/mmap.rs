//! Files as memory. The only unsafe code of this crate.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a whole file into memory, read-only.
///
/// Nothing can promise that the file stays as it is. If another process changes it while it is mapped, the bytes
/// change under a `&[u8]`, which is undefined behaviour by the letter, and in practice gives wrong values; if it is
/// cut short, reading behind its new end kills this process with SIGBUS. File locks do not help, since other programs
/// need not heed them. Maps are used nevertheless, because a copy of the 58 GB of VQA2.0's features fits into few
/// memories, and because the inputs are data sets that nobody edits in place. The documentation of this crate asks
/// for that, and its own writers never touch a file that has its final name: they rename a complete one over it,
/// which leaves existing maps as they were.
///
/// # Errors
///
/// When the file is missing or not a regular file, or the system has no room for the map.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    if !file.metadata().map_err(Error::io("read", path))?.is_file() {
        return Err(Error::wrong_format(path, "not a file"));
    }
    // SAFETY: sound as long as nobody changes the file while it is mapped, which cannot be enforced: see above.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(Error::io("read", path))
}
