//! One process at a time in the directory of a run.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use vqa_data::files::create_directory;
use vqa_model::run::RunDir;

use crate::error::{Error, Result};

/// While this exists, no other process trains in the directory. The operating system ends it with the process.
#[derive(Debug)]
pub struct RunLock {
    _file: Option<File>,
}

impl RunLock {
    /// Makes this process the only one that trains in the directory, and removes what a killed one left half-written.
    ///
    /// # Errors
    ///
    /// When another process trains in it, or the directory cannot be made.
    pub fn acquire(run: &RunDir) -> Result<RunLock> {
        let directory = run.state_dir();
        create_directory(&directory)?;
        let path = directory.join("lock");
        let file = File::create(&path).map_err(vqa_data::Error::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => {
                for directory in [run.path(), &directory] {
                    remove_half_written(directory)?;
                }
                Ok(RunLock { _file: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(Error::Locked { out_dir: run.path().to_owned() }),
            // A file system without locks: nothing is known of others.
            Err(TryLockError::Error(_)) => Ok(RunLock { _file: None }),
        }
    }
}

/// Removes temporary files of processes that were killed. They begin with a dot and end with `.tmp`, as `AtomicFile` names them.
fn remove_half_written(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(vqa_data::Error::io("read the directory", directory))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") && path.is_file() {
            fs::remove_file(&path).map_err(vqa_data::Error::io("remove", &path))?;
        }
    }
    Ok(())
}
