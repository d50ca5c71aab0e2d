//! Files that appear whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempPath;

use crate::{Error, Result};

/// Temporary files of this process that are not yet renamed, for [`remove_unfinished`].
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A file being written beside its destination, under a temporary name. Dropping it removes it;
/// [`AtomicFile::finish`] moves it to its place.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: TempPath,
    destination: PathBuf,
}

impl AtomicFile {
    /// Starts an empty file that will become `destination`. Missing directories are made.
    ///
    /// # Errors
    ///
    /// When the directory or the file cannot be made.
    pub fn create(destination: &Path) -> Result<AtomicFile> {
        let directory = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory).map_err(Error::io("create the directory", directory))?;
        let name = destination.file_name().unwrap_or_default().to_string_lossy();
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{name}.");
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        {
            // The default of `tempfile` is 0600; the finished file should obey the umask like any other.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(directory).map_err(Error::io("write", destination))?.into_temp_path();
        unfinished().insert(temporary.to_path_buf());
        Ok(AtomicFile { temporary, destination: destination.to_owned() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// The path that the file will have.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Flushes the file to the disk and gives it its name, replacing what had it before.
    ///
    /// # Errors
    ///
    /// When the disk is full or the rename fails; the destination is then as it was.
    pub fn finish(mut self) -> Result<()> {
        let write_error = || Error::io("write", &self.destination);
        File::open(&self.temporary).and_then(|file| file.sync_all()).map_err(write_error())?;
        fs::rename(&self.temporary, &self.destination).map_err(write_error())?;
        unfinished().remove(&*self.temporary);
        self.temporary.disable_cleanup(true);
        // The rename itself must survive a power cut. Not every file system can sync a directory.
        if let Some(parent) = self.destination.parent()
            && let Ok(directory) = File::open(parent)
        {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        unfinished().remove(&*self.temporary);
    }
}

/// Writes `bytes` to `path`, whole or not at all.
///
/// # Errors
///
/// When the directory cannot be made, the disk is full, or the rename fails.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = AtomicFile::create(path)?;
    fs::write(file.path(), bytes).map_err(Error::io("write", path))?;
    file.finish()
}

/// Removes the temporary files of this process: for a signal handler that is about to exit, since an exit
/// runs no destructors.
pub fn remove_unfinished() {
    for path in unfinished().iter() {
        let _ = fs::remove_file(path);
    }
}

fn unfinished() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_file_leaves_the_old_one_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/words.json");
        write_atomic(&path, b"old").unwrap();
        let file = AtomicFile::create(&path).unwrap();
        fs::write(file.path(), b"ne").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_finished_file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (ours, plain) = (directory.path().join("ours"), directory.path().join("plain"));
        write_atomic(&ours, b"x").unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
