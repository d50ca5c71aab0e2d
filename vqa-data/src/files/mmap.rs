//! Memory-mapped files. The only unsafe code of this crate.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::files::input::open_input;

/// The files that are currently mapped: address of the first byte, address past the last byte, and path.
static MAPPED: Mutex<BTreeMap<usize, (usize, PathBuf)>> = Mutex::new(BTreeMap::new());

/// A whole file mapped into memory, read-only.
#[derive(Debug)]
pub(crate) struct MappedFile(Mmap);

/// Maps a whole file into memory.
///
/// Nothing can guarantee that the file stays unchanged. If another process changes it while it is mapped, the bytes
/// change under a `&[u8]`, which is formally undefined behaviour, and in practice gives wrong values; if it is
/// truncated, reading past its new end raises SIGBUS, for which [`mapped_file_at`] finds the path. File locks do not
/// help, since other programs need not respect them. Maps are used nevertheless, because few machines have the memory
/// for a copy of VQA2.0's 58 GB of features, and because the inputs are data sets that nobody edits in place. The
/// documentation of this crate asks for that, and its own writers never touch a file that has its final name: they
/// rename a complete one over it, which leaves existing maps as they were.
///
/// # Errors
///
/// When the file is missing or not a regular file, or the system has no room for the map.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<MappedFile> {
    let file = open_input(path)?;
    // SAFETY: sound as long as nobody changes the file while it is mapped, which cannot be enforced: see above.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
    let range = map.as_ptr_range();
    mapped().insert(range.start.addr(), (range.end.addr(), path.to_owned()));
    Ok(MappedFile(map))
}

/// Returns the path of the file that is mapped at an address, for handlers of SIGBUS, which is raised when a file that
/// was truncated, or is on a failing disk, is read. This takes a lock: the signal handler itself must not call it, but
/// another thread may.
pub fn mapped_file_at(address: usize) -> Option<PathBuf> {
    let mapped = mapped();
    let (_, (end, path)) = mapped.range(..=address).next_back()?;
    (address < *end).then(|| path.clone())
}

fn mapped() -> MutexGuard<'static, BTreeMap<usize, (usize, PathBuf)>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for MappedFile {
    type Target = Mmap;

    fn deref(&self) -> &Mmap {
        &self.0
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        mapped().remove(&self.0.as_ptr().addr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_a_file_while_it_is_mapped() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, vec![7; 100_000]).unwrap());
        let maps = paths.each_ref().map(|path| map_file(path).unwrap());
        for (path, map) in paths.iter().zip(&maps) {
            for place in [0, 5_000, 99_999] {
                assert_eq!(mapped_file_at(map[place..].as_ptr().addr()).as_ref(), Some(path));
            }
        }
        let [first, second] = maps;
        let address = first.as_ptr().addr();
        drop(first);
        assert_ne!(mapped_file_at(address).as_ref(), Some(&paths[0]));
        assert_eq!(mapped_file_at(second.as_ptr().addr()).as_ref(), Some(&paths[1]));
        assert_eq!(mapped_file_at(0), None);
    }
}
