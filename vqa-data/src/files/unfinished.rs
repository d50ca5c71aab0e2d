//! What this process is in the middle of writing, so that a signal handler can tidy up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Files and directories of this process that are not yet renamed, for [`remove_unfinished`].
static UNFINISHED: Mutex<BTreeMap<PathBuf, IfStopped>> = Mutex::new(BTreeMap::new());

/// Held while something unfinished is created and noted, and forever once [`remove_unfinished`] has begun.
static CREATION: Mutex<()> = Mutex::new(());

/// What to do with an unfinished file when the program is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfStopped {
    /// It is of no use to anyone.
    Remove,
    /// The same command resumes it.
    #[cfg_attr(not(feature = "hdf5"), expect(dead_code, reason = "only feature files can be resumed"))]
    Keep,
}

/// Removes the temporary files and directories of this process, except those that the same command could resume, whose
/// paths are returned. Meant for a signal handler that is about to exit, since exiting runs no destructors. From then
/// on, other threads block when they try to create another.
pub fn remove_unfinished() -> Vec<PathBuf> {
    std::mem::forget(lock_creation());
    let mut kept = Vec::new();
    for (path, if_stopped) in unfinished().iter() {
        match if_stopped {
            IfStopped::Keep => kept.push(path.clone()),
            IfStopped::Remove if path.is_dir() => drop(fs::remove_dir_all(path)),
            IfStopped::Remove => drop(fs::remove_file(path)),
        }
    }
    kept
}

/// Takes the lock that [`remove_unfinished`] waits for.
pub(crate) fn lock_creation() -> std::sync::MutexGuard<'static, ()> {
    CREATION.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn note_unfinished(path: &Path, if_stopped: IfStopped) {
    unfinished().insert(path.to_owned(), if_stopped);
}

pub(crate) fn forget_unfinished(path: &Path) {
    unfinished().remove(path);
}

fn unfinished() -> std::sync::MutexGuard<'static, BTreeMap<PathBuf, IfStopped>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}
