//! Files and directories that appear whole or not at all.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, TempPath};

use crate::error::{Error, Result};
use crate::files::unfinished::{IfStopped, forget_unfinished, making, note_unfinished};

/// A file being written beside its destination, under a temporary name. Dropping it removes it;
/// [`AtomicFile::finish`] gives it its name.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: TempPath,
    destination: PathBuf,
}

impl AtomicFile {
    /// Starts an empty file that will become `destination`, or what that links to. Missing directories are made.
    ///
    /// # Errors
    ///
    /// When the directory or the file cannot be made, or there is a directory or a device of that name.
    pub fn create(destination: &Path) -> Result<AtomicFile> {
        let destination = resolve(destination)?;
        let directory = make_parent(&destination)?;
        let prefix = temporary_prefix(&destination);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        {
            // The default of `tempfile` is 0600; the finished file should obey the umask like any other.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let _making = making();
        let temporary = builder.tempfile_in(directory).map_err(Error::io("write", &destination))?.into_temp_path();
        note_unfinished(&temporary, IfStopped::Remove);
        Ok(AtomicFile { temporary, destination })
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
        let synced = File::open(&self.temporary).and_then(|file| file.sync_all());
        synced.map_err(Error::io("write", &self.destination))?;
        rename(&self.temporary, &self.destination)?;
        self.temporary.disable_cleanup(true);
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        forget_unfinished(&self.temporary);
    }
}

/// A directory being filled beside its destination, under a temporary name. Dropping it removes it with all that is in
/// it; [`AtomicDir::finish`] gives it its name.
#[derive(Debug)]
pub struct AtomicDir {
    temporary: Option<TempDir>,
    path: PathBuf,
    destination: PathBuf,
}

impl AtomicDir {
    /// Starts an empty directory that will become `destination`. Missing directories above it are made.
    ///
    /// # Errors
    ///
    /// When there is something at `destination` already, or the directory cannot be made.
    pub fn create(destination: &Path) -> Result<AtomicDir> {
        if destination.exists() {
            return Err(Error::exists(destination, "is there already: remove it, or choose another directory"));
        }
        let directory = make_parent(destination)?;
        let prefix = temporary_prefix(destination);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let _making = making();
        let temporary = builder.tempdir_in(directory).map_err(Error::io("write", destination))?;
        let path = temporary.path().to_owned();
        note_unfinished(&path, IfStopped::Remove);
        Ok(AtomicDir { temporary: Some(temporary), path, destination: destination.to_owned() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its name.
    ///
    /// # Errors
    ///
    /// When the rename fails, because another file appeared under that name, for example.
    pub fn finish(mut self) -> Result<()> {
        rename(&self.path, &self.destination)?;
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
        Ok(())
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        forget_unfinished(&self.path);
    }
}

/// Writes `bytes` to `path`, whole or not at all. Into a pipe or a device they are just written.
///
/// # Errors
///
/// When the directory cannot be made, the disk is full, or the rename fails.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_pipe_or_device(path) {
        return fs::write(path, bytes).map_err(Error::io("write", path));
    }
    let file = AtomicFile::create(path)?;
    fs::write(file.path(), bytes).map_err(Error::io("write", path))?;
    file.finish()
}

/// Makes a directory and those above it, so that they survive a power cut too. A directory that is named "~" is not
/// made: the name was meant for a shell, which has not seen it.
///
/// # Errors
///
/// When one cannot be made.
pub fn create_directory(directory: &Path) -> Result<()> {
    let missing = missing_directories(directory);
    let made = match missing.iter().any(|path| path.file_name().is_some_and(|name| name == "~")) {
        true => Err(ErrorKind::NotFound.into()),
        false => fs::create_dir_all(directory),
    };
    made.map_err(Error::io("create the directory", directory))?;
    missing.into_iter().rev().for_each(sync_parent);
    Ok(())
}

/// Tries whether a file can be written in a directory, which is made for that if it is missing. Nothing is left behind.
///
/// # Errors
///
/// When it cannot.
pub fn try_directory(directory: &Path) -> Result<()> {
    let missing = missing_directories(directory);
    let file = create_directory(directory)
        .and_then(|()| tempfile::tempfile_in(directory).map_err(Error::io("write to the directory", directory)));
    for made in missing {
        // Some may not have been made, and others are in use by now.
        let _ = fs::remove_dir(made);
    }
    file.map(drop)
}

/// Tries whether a file can be written, for a command that writes it at the end of long work. Nothing is left behind.
///
/// # Errors
///
/// When it cannot.
pub fn try_file(destination: &Path) -> Result<()> {
    match is_pipe_or_device(destination) {
        true => Ok(()),
        false => try_directory(parent(&resolve(destination)?)),
    }
}

/// A directory and those above it that do not exist, the innermost first.
fn missing_directories(directory: &Path) -> Vec<&Path> {
    directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect()
}

fn is_pipe_or_device(path: &Path) -> bool {
    path.exists() && !path.is_file() && !path.is_dir()
}

/// The path itself, or what it links to. Refuses directories and devices.
pub(crate) fn resolve(destination: &Path) -> Result<PathBuf> {
    let destination = if destination.is_symlink() {
        fs::canonicalize(destination).map_err(Error::io("write", destination))?
    } else {
        destination.to_owned()
    };
    if destination.exists() && !destination.is_file() {
        return Err(Error::exists(&destination, "not a file, and so not replaced by one: choose another path"));
    }
    Ok(destination)
}

/// Gives something finished its name.
pub(crate) fn rename(unfinished: &Path, destination: &Path) -> Result<()> {
    fs::rename(unfinished, destination).map_err(Error::io("write", destination))?;
    forget_unfinished(unfinished);
    sync_parent(destination);
    Ok(())
}

/// Makes the directory that `destination` is in.
pub(crate) fn make_parent(destination: &Path) -> Result<&Path> {
    let directory = parent(destination);
    create_directory(directory)?;
    Ok(directory)
}

fn temporary_prefix(destination: &Path) -> String {
    format!(".{}.", destination.file_name().unwrap_or_default().to_string_lossy())
}

/// A name itself must survive a power cut. Not every file system can sync a directory.
fn sync_parent(path: &Path) {
    if let Ok(directory) = File::open(parent(path)) {
        let _ = directory.sync_all();
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

    #[test]
    fn a_directory_appears_when_it_is_finished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/images");
        let abandoned = AtomicDir::create(&path).unwrap();
        fs::write(abandoned.path().join("1.jpg"), b"x").unwrap();
        drop(abandoned);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        let finished = AtomicDir::create(&path).unwrap();
        fs::write(finished.path().join("1.jpg"), b"x").unwrap();
        finished.finish().unwrap();
        assert!(path.join("1.jpg").exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(AtomicDir::create(&path).unwrap_err().to_string().contains("is there already"));
    }

    #[test]
    fn a_directory_that_was_tried_is_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        try_directory(at).unwrap();
        try_directory(&at.join("a/b")).unwrap();
        try_file(&at.join("a/b")).unwrap();
        assert!(matches!(try_file(at), Err(Error::Exists { .. })));
        assert_eq!(fs::read_dir(at).unwrap().count(), 0);
        fs::write(at.join("file"), "").unwrap();
        let error = try_directory(&at.join("file/b")).unwrap_err().to_string();
        assert!(error.contains("cannot create the directory") && error.contains("file/b"), "{error}");
    }

    #[test]
    fn a_tilde_is_not_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("~/words.json");
        for error in [write_atomic(&path, b"").unwrap_err(), Error::io("read", &path)(ErrorKind::NotFound.into())] {
            assert!(error.to_string().contains("only a shell expands \"~\""), "{error}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        // Whoever has one keeps it.
        fs::create_dir(path.parent().unwrap()).unwrap();
        write_atomic(&path, b"").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links_and_devices_stay_devices() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        write_atomic(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!Path::new("/dev/null").is_file());
        assert!(AtomicFile::create(Path::new("/dev/null")).is_err());
        assert!(write_atomic(directory.path(), b"x").unwrap_err().to_string().contains("not replaced by one"));
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
