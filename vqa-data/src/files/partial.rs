//! A large unfinished file, beside its destination under a name that the next run finds, so that the work of a killed
//! run can be resumed.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::atomic::{make_parent, rename, resolve};
use crate::files::unfinished::{IfStopped, forget_unfinished, making, note_unfinished};

const EXTENSION: &str = "partial";

/// `DESTINATION.partial`, and beside it `DESTINATION.partial.json`: empty at first, and then with how much is safe.
///
/// Dropping it removes both, unless it holds progress to resume from, or [`Partial::keep`] was called; a killed
/// process leaves them. The small file is locked, so that two processes never write one file; not the large one,
/// which HDF5 locks when it opens it.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    journal: File,
    journal_path: PathBuf,
    destination: PathBuf,
    kept: bool,
}

/// What is known of an unfinished file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// A digest of what the file is made from.
    pub(crate) made_from: String,
    /// How many images are safely on the disk, from the first on.
    pub(crate) n_done: usize,
}

impl Partial {
    /// Opens or makes the unfinished file of `destination`, or of what that links to, whatever is in it.
    pub(crate) fn open(destination: &Path) -> Result<Partial> {
        let destination = resolve(destination)?;
        make_parent(&destination)?;
        let path = partial_path(&destination);
        let journal_path = path.with_added_extension("json");
        let open = |path: &Path| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(Error::io("write", path))
        };
        let _making = making();
        let journal = loop {
            let journal = open(&journal_path)?;
            match journal.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let problem = "another process is writing it: wait for that one, or end it".to_owned();
                    return Err(Error::InUse { path: destination, problem, source: None });
                }
                // A file system without locks: nothing can be known.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Between opening and locking, another process may have finished, and removed this file.
            if is_at(&journal, &journal_path) {
                break journal;
            }
        };
        let file = open(&path)?;
        let mut partial = Partial { file, path, journal, journal_path, destination, kept: false };
        partial.set_kept(partial.journal().is_some());
        Ok(partial)
    }

    /// What an earlier process has left, if it can be resumed.
    pub(crate) fn journal(&self) -> Option<Journal> {
        let mut text = Vec::new();
        File::open(&self.journal_path).ok()?.read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) -> Result<()> {
        // First the journal: an emptied file must not look like one that can be resumed.
        self.set_kept(false);
        self.journal.set_len(0).map_err(Error::io("write", &self.journal_path))?;
        self.file.set_len(0).map_err(Error::io("write", &self.path))
    }

    /// Makes sure that what is written is on the disk, and notes that the first `n_done` images are.
    pub(crate) fn save_progress(&self, made_from: &str, n_done: usize) -> Result<()> {
        self.file.sync_data().map_err(Error::io("write", &self.destination))?;
        let journal = Journal { made_from: made_from.to_owned(), n_done };
        let text = serde_json::to_vec(&journal).expect("a journal is valid JSON");
        // From here on, an interrupted program leaves something to resume.
        self.note(IfStopped::Keep);
        // In place and within one sector, which the file already has: it works even on a full disk.
        let written = self.journal.write_all_at(&text, 0).and_then(|()| self.journal.set_len(text.len() as u64));
        written.and_then(|()| self.journal.sync_data()).map_err(Error::io("write", &self.journal_path))
    }

    /// Leaves it for a later process, if it holds progress to resume from.
    pub(crate) fn keep(&mut self) {
        self.set_kept(self.journal().is_some());
    }

    fn set_kept(&mut self, kept: bool) {
        self.kept = kept;
        self.note(if kept { IfStopped::Keep } else { IfStopped::Remove });
    }

    fn note(&self, if_stopped: IfStopped) {
        for path in [&self.path, &self.journal_path] {
            note_unfinished(path, if_stopped);
        }
    }

    /// Makes [`Partial::save_progress`] fail, as a disk does.
    #[cfg(test)]
    pub(crate) fn break_down(&mut self) {
        self.journal = File::open(&self.journal_path).expect("a journal that cannot be written");
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn destination(&self) -> &Path {
        &self.destination
    }

    /// Flushes it to the disk and gives it its name. If that cannot be done, it is kept as it is.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.keep();
        self.file.sync_all().map_err(Error::io("write", &self.destination))?;
        rename(&self.path, &self.destination)?;
        self.kept = false;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        for path in [&self.path, &self.journal_path] {
            forget_unfinished(path);
        }
        if !self.kept {
            // While it is locked, so that no other process has started to use it.
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(&self.journal_path);
        }
    }
}

/// Where the unfinished file of a destination is.
pub(crate) fn partial_path(destination: &Path) -> PathBuf {
    destination.with_added_extension(EXTENSION)
}

/// The destination of a file that has the name of an unfinished one.
pub(crate) fn destination_of_unfinished(path: &Path) -> Option<PathBuf> {
    path.extension().is_some_and(|extension| extension == EXTENSION).then(|| path.with_extension(""))
}

/// Whether an open file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_survives_and_an_abandoned_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("sub/f.h5");
        let files = || fs::read_dir(out.parent().unwrap()).unwrap().count();
        drop(Partial::open(&out).unwrap());
        assert_eq!(files(), 0);

        let mut first = Partial::open(&out).unwrap();
        assert!(Partial::open(&out).unwrap_err().to_string().contains("another process is writing it"));
        first.keep();
        drop(first);
        assert_eq!(files(), 0, "nothing to resume");

        let mut first = Partial::open(&out).unwrap();
        first.save_progress("a.tsv", 5_000).unwrap();
        first.save_progress("a.tsv", 70).unwrap();
        first.keep();
        drop(first);
        assert_eq!(files(), 2);
        // Looking changes nothing.
        let journal = Partial::open(&out).unwrap().journal().unwrap();
        assert_eq!((journal.made_from.as_str(), journal.n_done), ("a.tsv", 70));
        let mut second = Partial::open(&out).unwrap();
        second.clear().unwrap();
        assert!(second.journal().is_none());
        second.save_progress("b.tsv", 1).unwrap();
        second.finish().unwrap();
        assert!(out.exists());
        assert_eq!(files(), 1);
    }
}
