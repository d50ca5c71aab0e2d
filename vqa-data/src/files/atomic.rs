//! Files and directories that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tempfile::{TempDir, TempPath};

use crate::error::{Error, Result};
use crate::files::unfinished::{IfStopped, forget_unfinished, lock_creation, note_unfinished};

/// A file being written beside its destination, under a temporary name. Dropping it removes the file;
/// [`AtomicFile::finish`] gives it its final name.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: TempPath,
    destination: PathBuf,
}

impl AtomicFile {
    /// Starts an empty file that will become `destination`, or what that links to. Missing directories are created.
    ///
    /// # Errors
    ///
    /// When the directory or the file cannot be created, or `destination` is a directory or a device.
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
        let _lock = lock_creation();
        let temporary = builder.tempfile_in(directory).map_err(Error::io("write", &destination))?.into_temp_path();
        note_unfinished(&temporary, IfStopped::Remove);
        Ok(AtomicFile { temporary, destination })
    }

    /// The temporary path, to write to.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// The path that the file will have.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Flushes the file to the disk and gives it its final name, replacing any file there.
    ///
    /// # Errors
    ///
    /// When the disk is full or the rename fails; the destination is then unchanged.
    pub fn finish(mut self) -> Result<()> {
        sync_file(&self.temporary).map_err(Error::io("write", &self.destination))?;
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

/// A directory being filled beside its destination, under a temporary name. Dropping it removes the directory with
/// everything in it; [`AtomicDir::finish`] gives it its final name.
#[derive(Debug)]
pub struct AtomicDir {
    temporary: Option<TempDir>,
    path: PathBuf,
    destination: PathBuf,
}

impl AtomicDir {
    /// Starts an empty directory that will become `destination`. Missing parent directories are created.
    ///
    /// # Errors
    ///
    /// When `destination` exists already, or the directory cannot be created.
    pub fn create(destination: &Path) -> Result<AtomicDir> {
        if destination.exists() {
            return Err(Error::exists(destination, "already exists: remove it, or choose another directory"));
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
        let _lock = lock_creation();
        let temporary = builder.tempdir_in(directory).map_err(Error::io("write", destination))?;
        let path = temporary.path().to_owned();
        note_unfinished(&path, IfStopped::Remove);
        Ok(AtomicDir { temporary: Some(temporary), path, destination: destination.to_owned() })
    }

    /// The temporary path, to write to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes all files in the directory to the disk and gives it its final name.
    ///
    /// # Errors
    ///
    /// When the disk is full or the rename fails, for example because another file has appeared under that name.
    pub fn finish(mut self) -> Result<()> {
        sync_tree(&self.path).map_err(Error::io("write", &self.destination))?;
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

/// Writes `bytes` to `path`, completely or not at all. A pipe or a device is written to directly.
///
/// # Errors
///
/// When the directory cannot be created, the disk is full, or the rename fails.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_pipe_or_device(path) {
        return fs::write(path, bytes).map_err(Error::io("write", path));
    }
    let file = AtomicFile::create(path)?;
    fs::write(file.path(), bytes).map_err(Error::io("write", path))?;
    file.finish()
}

/// Creates a directory and its missing parents, in such a way that they survive a power cut. A directory named "~" is
/// not created: the name was meant for a shell to expand, and none did.
///
/// # Errors
///
/// When one of them cannot be created.
pub fn create_directory(directory: &Path) -> Result<()> {
    let missing = missing_directories(directory);
    let made = match has_tilde(&missing) {
        true => Err(ErrorKind::NotFound.into()),
        false => fs::create_dir_all(directory),
    };
    made.map_err(Error::io("create the directory", directory))?;
    missing.into_iter().rev().for_each(sync_parent);
    Ok(())
}

/// Checks that a file can be written in a directory, or that the directory can be created if it is missing. Nothing is
/// left behind; missing directories are not created even for a moment, since another process may be about to use them.
///
/// # Errors
///
/// When it cannot.
pub fn try_directory(directory: &Path) -> Result<()> {
    let missing = missing_directories(directory);
    let tried = match missing.last() {
        None => tempfile::tempfile_in(directory).map_err(Error::io("write to the directory", directory)),
        Some(_) if has_tilde(&missing) => Err(Error::io("create the directory", directory)(ErrorKind::NotFound.into())),
        Some(outermost) => {
            tempfile::tempfile_in(parent(outermost)).map_err(Error::io("create the directory", directory))
        }
    };
    tried.map(drop)
}

/// Checks that a file can be written, for a command that writes it at the end of long work. Nothing is left behind.
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

/// Returns those of a directory and its parents that do not exist, innermost first.
fn missing_directories(directory: &Path) -> Vec<&Path> {
    directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect()
}

/// Whether one of these directories is `~`, which only a shell expands.
fn has_tilde(missing: &[&Path]) -> bool {
    missing.iter().any(|path| path.file_name().is_some_and(|name| name == "~"))
}

fn is_pipe_or_device(path: &Path) -> bool {
    path.exists() && !path.is_file() && !path.is_dir()
}

/// Returns the path itself, or what it links to. Refuses directories and devices.
pub(crate) fn resolve(destination: &Path) -> Result<PathBuf> {
    let destination = if destination.is_symlink() {
        fs::canonicalize(destination).map_err(Error::io("write", destination))?
    } else {
        destination.to_owned()
    };
    if destination.exists() && !destination.is_file() {
        return Err(Error::exists(
            &destination,
            "exists and is not a file, so it is not replaced: choose another path",
        ));
    }
    Ok(destination)
}

/// What to do if a finished file already has the name of the one to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfExists {
    /// Keep it, and return an error.
    #[default]
    Refuse,
    /// Replace it once the new file is complete.
    Replace,
}

impl IfExists {
    /// Refuses a path that is taken, before any work is done.
    ///
    /// # Errors
    ///
    /// When there is a file at `path` that is not to be replaced.
    pub fn check(self, path: &Path) -> Result<()> {
        if self == IfExists::Refuse && path.is_file() {
            return Err(Error::exists(path, "already exists: choose another name, or replace it with --force"));
        }
        Ok(())
    }
}

/// Gives a finished file its final name, unless another file has taken that name meanwhile.
#[cfg(feature = "hdf5")]
pub(crate) fn rename_new(unfinished: &Path, destination: &Path) -> Result<()> {
    let mut file = TempPath::try_from_path(unfinished).map_err(Error::io("write", destination))?;
    file.disable_cleanup(true);
    file.persist_noclobber(destination).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let problem = format!(
                "another file appeared under that name in the meantime: rename one of the two; the new one is still called {}",
                unfinished.display()
            );
            Error::exists(destination, problem)
        }
        _ => Error::io("write", destination)(error.error),
    })?;
    forget_unfinished(unfinished);
    sync_parent(destination);
    Ok(())
}

/// Gives a finished file or directory its final name.
pub(crate) fn rename(unfinished: &Path, destination: &Path) -> Result<()> {
    fs::rename(unfinished, destination).map_err(Error::io("write", destination))?;
    forget_unfinished(unfinished);
    sync_parent(destination);
    Ok(())
}

/// Creates and returns the directory that `destination` is in.
pub(crate) fn make_parent(destination: &Path) -> Result<&Path> {
    let directory = parent(destination);
    create_directory(directory)?;
    Ok(directory)
}

fn temporary_prefix(destination: &Path) -> String {
    format!(".{}.", destination.file_name().unwrap_or_default().to_string_lossy())
}

/// Flushes the name of a file, so that it survives a power cut too.
fn sync_parent(path: &Path) {
    sync_directory(parent(path));
}

/// Flushes the names in a directory to the disk. Not every file system can do that.
fn sync_directory(directory: &Path) {
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Flushes a directory and everything in it to the disk, many files at a time, so that the disk can write them
/// together.
fn sync_tree(directory: &Path) -> io::Result<()> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.par_iter().try_for_each(|entry| match entry.file_type()? {
        kind if kind.is_dir() => sync_tree(&entry.path()),
        kind if kind.is_file() => sync_file(&entry.path()),
        // A link is only a name: its target was not written here.
        _ => Ok(()),
    })?;
    sync_directory(directory);
    Ok(())
}

pub(crate) fn parent(path: &Path) -> &Path {
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
        assert!(AtomicDir::create(&path).unwrap_err().to_string().contains("already exists"));
    }

    /// Checks the order of system calls with strace: flushes, by the path of the descriptor, and renames. Skipped if
    /// there is no strace, or it may not trace.
    #[cfg(target_os = "linux")]
    #[test]
    fn all_is_on_the_disk_before_it_has_its_name() {
        const DIRECTORY: &str = "VQA_TEST_ATOMIC_DIRECTORY";
        if let Some(directory) = std::env::var_os(DIRECTORY) {
            let directory = PathBuf::from(directory);
            let whole = AtomicDir::create(&directory.join("images")).unwrap();
            fs::create_dir(whole.path().join("train")).unwrap();
            for name in ["1.jpg", "train/2.jpg", "train/3.jpg"] {
                fs::write(whole.path().join(name), name).unwrap();
            }
            whole.finish().unwrap();
            write_atomic(&directory.join("words.json"), b"[]").unwrap();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let test = std::env::current_exe().unwrap();
        let traced = std::process::Command::new("strace")
            .args(["-f", "-y", "-qq", "-e", "trace=fsync,rename,renameat,renameat2", "-o"])
            .arg(&log)
            .arg(test)
            .args(["--exact", "files::atomic::tests::all_is_on_the_disk_before_it_has_its_name"])
            .env(DIRECTORY, directory.path().join("data"))
            .output();
        if !traced.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: strace cannot be used here");
            return;
        }
        let log = fs::read_to_string(&log).unwrap();
        let position = |what: &str, wanted: &dyn Fn(&str) -> bool| {
            log.lines().position(wanted).unwrap_or_else(|| panic!("{what} is missing: {log}"))
        };
        for (name, parts) in [
            ("images", &["/1.jpg>", "/train/2.jpg>", "/train/3.jpg>", "/train>", ".tmp>"][..]),
            ("words.json", &[".tmp>"]),
        ] {
            let renamed =
                position("the rename", &|line| line.contains("rename") && line.contains(&format!("data/{name}\"")));
            for part in parts {
                let of_part = |line: &str| line.contains(&format!(".{name}.")) && line.contains(part);
                let synced = position(part, &|line| line.contains("fsync(") && of_part(line));
                assert!(synced < renamed, "{name}: {part} after the rename: {log}");
            }
            let after = log.lines().skip(renamed).any(|line| line.contains("fsync(") && line.contains("/data>"));
            assert!(after, "{name}: the name itself: {log}");
        }
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
        let error = try_directory(&at.join("~/a")).unwrap_err().to_string();
        assert!(error.contains("only a shell expands \"~\""), "{error}");
    }

    #[test]
    fn a_tilde_is_not_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("~/words.json");
        for error in [write_atomic(&path, b"").unwrap_err(), Error::io("read", &path)(ErrorKind::NotFound.into())] {
            assert!(error.to_string().contains("only a shell expands \"~\""), "{error}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        // If there is already such a directory, it is used.
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
        assert!(write_atomic(directory.path(), b"x").unwrap_err().to_string().contains("so it is not replaced"));
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
