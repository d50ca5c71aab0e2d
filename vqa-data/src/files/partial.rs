//! A large unfinished file, beside its destination under a name that the next run finds, so that the work of a killed
//! run can be resumed.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::atomic::{IfExists, make_parent, parent, rename, rename_new, resolve, try_directory};
use crate::files::unfinished::{IfStopped, forget_unfinished, lock_creation, note_unfinished};

const EXTENSION: &str = "partial";

/// `DESTINATION.partial`, and beside it the journal `DESTINATION.partial.json`, which says that this program created
/// both, and how much is safely written.
///
/// Without a journal of ours, files of these names are somebody else's and are left alone; links are never followed.
/// Dropping it removes both, unless it was opened with progress to resume from, or [`Partial::keep`] was called when
/// there was some; a killed process leaves them. The journal is locked, so that two processes never write the same
/// file; the large file is not, because HDF5 locks it when it opens it.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    journal: File,
    journal_path: PathBuf,
    destination: PathBuf,
    if_exists: IfExists,
    kept: bool,
}

/// The content of the journal.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    /// A digest of what the file is made from; none before there is something to resume.
    made_from: Option<String>,
    /// How many images, counted from the first, are safely on the disk.
    n_done: usize,
}

/// How far an earlier process got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// A digest of what the file is made from.
    pub(crate) made_from: String,
    /// How many images, counted from the first, are safely on the disk.
    pub(crate) n_done: usize,
}

impl Partial {
    /// Opens or creates the unfinished file of `destination`, or of what that links to.
    ///
    /// # Errors
    ///
    /// When the destination exists and is not to be replaced or has the name of an unfinished file, when another
    /// process is writing it, or when a name is taken by something that this program did not create.
    pub(crate) fn open(destination: &Path, if_exists: IfExists) -> Result<Partial> {
        refuse_unfinished(destination)?;
        let destination = resolve(destination)?;
        if_exists.check(&destination)?;
        make_parent(&destination)?;
        let path = partial_path(&destination);
        let journal_path = journal_path(&destination);
        let _lock = lock_creation();
        let (journal, is_new) = loop {
            let (journal, is_new) = open_or_create(&journal_path)?;
            match journal.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let problem = "another process is writing it: wait for it to finish, or end it".to_owned();
                    return Err(Error::InUse { path: destination, problem, source: None });
                }
                // A file system without locks cannot tell.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Between opening and locking, another process may have finished, and removed this file.
            if is_at(&journal, &journal_path) {
                break (journal, is_new);
            }
        };
        let file = open_unfinished(&path, &journal, &journal_path).inspect_err(|_| {
            if is_new {
                let _ = fs::remove_file(&journal_path);
            }
        })?;
        let mut partial = Partial { file, path, journal, journal_path, destination, if_exists, kept: false };
        partial.set_kept(partial.progress().is_some());
        Ok(partial)
    }

    /// Returns the progress in the journal, if there is any to resume from.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let Journal { made_from, n_done } = read(&self.journal_path)?;
        (n_done > 0).then_some(Progress { made_from: made_from?, n_done })
    }

    /// Empties the file, and forgets its progress.
    pub(crate) fn clear(&mut self) -> Result<()> {
        // First the journal: an emptied file must not look like one that can be resumed.
        self.set_kept(false);
        write(&self.journal, &self.journal_path, &Journal::default())?;
        self.file.set_len(0).map_err(Error::io("write", &self.path))
    }

    /// Flushes what has been written to the disk, and notes in the journal that the first `n_done` images are there.
    pub(crate) fn save_progress(&self, made_from: &str, n_done: usize) -> Result<()> {
        self.file.sync_data().map_err(Error::io("write", &self.destination))?;
        if n_done > 0 {
            // From here on, an interrupted program leaves something to resume.
            self.note(IfStopped::Keep);
        }
        write(&self.journal, &self.journal_path, &Journal { made_from: Some(made_from.to_owned()), n_done })
    }

    /// Leaves both files for a later process, if they hold progress to resume from.
    pub(crate) fn keep(&mut self) {
        self.set_kept(self.progress().is_some());
    }

    /// Removes both files, whatever progress they hold.
    pub(crate) fn remove(mut self) {
        self.set_kept(false);
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

    /// Makes [`Partial::save_progress`] fail, as a full disk would.
    #[cfg(test)]
    pub(crate) fn fail_writes(&mut self) {
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

    /// Flushes the file to the disk and gives it its final name. If that fails, it is kept if there is progress to
    /// resume from.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.keep();
        self.file.sync_all().map_err(Error::io("write", &self.destination))?;
        match self.if_exists {
            IfExists::Refuse => rename_new(&self.path, &self.destination)?,
            IfExists::Replace => rename(&self.path, &self.destination)?,
        }
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

/// Returns the path of a destination's unfinished file.
pub(crate) fn partial_path(destination: &Path) -> PathBuf {
    destination.with_added_extension(EXTENSION)
}

/// Returns the path of the journal of a destination's unfinished file.
pub(crate) fn journal_path(destination: &Path) -> PathBuf {
    partial_path(destination).with_added_extension("json")
}

/// Returns the destination of a path that has the name of an unfinished file.
pub(crate) fn destination_of_unfinished(path: &Path) -> Option<PathBuf> {
    path.extension().is_some_and(|extension| extension == EXTENSION).then(|| path.with_extension(""))
}

/// Refuses a destination that has the name of an unfinished file, since it could not be opened.
fn refuse_unfinished(destination: &Path) -> Result<()> {
    match destination_of_unfinished(destination) {
        Some(_) => Err(Error::invalid(format!(
            "{}: only unfinished files have names that end in .{EXTENSION}: choose another name",
            destination.display()
        ))),
        None => Ok(()),
    }
}

/// Checks that a destination can be written, for a command that does long work first. Nothing is left behind.
pub(crate) fn try_destination(destination: &Path) -> Result<()> {
    refuse_unfinished(destination)?;
    try_directory(parent(&resolve(destination)?))
}

/// Reads a journal. Returns `None` if it is not a journal of ours.
fn read(path: &Path) -> Option<Journal> {
    /// In bytes; a journal is only a digest and a number.
    const MOST: u64 = 4096;
    let mut text = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes the journal in place and within one sector, which the file already has, so that it works even on a full disk.
fn write(journal: &File, path: &Path, content: &Journal) -> Result<()> {
    let text = serde_json::to_vec(content).expect("a journal is valid JSON");
    let written = journal.write_all_at(&text, 0).and_then(|()| journal.set_len(text.len() as u64));
    written.and_then(|()| journal.sync_data()).map_err(Error::io("write", path))
}

/// Opens the unfinished file that a journal belongs to, or creates it.
fn open_unfinished(path: &Path, journal: &File, journal_path: &Path) -> Result<File> {
    // A journal is empty if it was created just now, or by a process that was killed before it created the other file.
    if journal.metadata().map_err(Error::io("read", journal_path))?.len() == 0 {
        if fs::symlink_metadata(path).is_ok() {
            return Err(not_ours(path));
        }
        write(journal, journal_path, &Journal::default())?;
    } else if read(journal_path).is_none() {
        return Err(not_ours(journal_path));
    }
    Ok(open_or_create(path)?.0)
}

/// Opens or creates a file, and says whether it is new. Anything else of that name, even a link, is not ours.
fn open_or_create(path: &Path) -> Result<(File, bool)> {
    let mut options = File::options();
    options.read(true).write(true);
    // Another process may remove or create the file between two of these steps.
    loop {
        let (opened, is_new) = match fs::symlink_metadata(path) {
            Ok(there) if there.is_file() => (options.create_new(false).open(path), false),
            Ok(_) => return Err(not_ours(path)),
            Err(_) => (options.create_new(true).open(path), true),
        };
        match opened {
            Ok(file) if is_at(&file, path) => return Ok((file, is_new)),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
            Err(error) => return Err(Error::io("write", path)(error)),
        }
    }
}

fn not_ours(path: &Path) -> Error {
    Error::exists(path, "is in the way, and was not written by vqa: rename or remove it, or choose another output")
}

/// Whether an open file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(destination: &Path) -> Result<Partial> {
        Partial::open(destination, IfExists::Refuse)
    }

    #[test]
    fn progress_survives_and_an_abandoned_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("sub/f.h5");
        let files = || fs::read_dir(out.parent().unwrap()).unwrap().count();
        drop(open(&out).unwrap());
        assert_eq!(files(), 0);

        let mut first = open(&out).unwrap();
        assert!(open(&out).unwrap_err().to_string().contains("another process is writing it"));
        first.keep();
        drop(first);
        assert_eq!(files(), 0, "nothing to resume");

        let mut first = open(&out).unwrap();
        first.save_progress("a.tsv", 5_000).unwrap();
        first.save_progress("a.tsv", 70).unwrap();
        first.keep();
        drop(first);
        assert_eq!(files(), 2);
        // Opening it changes nothing.
        let progress = open(&out).unwrap().progress().unwrap();
        assert_eq!(progress, Progress { made_from: "a.tsv".to_owned(), n_done: 70 });
        let mut second = open(&out).unwrap();
        second.clear().unwrap();
        assert_eq!(second.progress(), None);
        second.save_progress("b.tsv", 1).unwrap();
        second.finish().unwrap();
        assert!(out.exists());
        assert_eq!(files(), 1);
    }

    /// The content of a directory: paths, and what is in the files or where the links lead.
    fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut content: Vec<_> = entries
            .map(|path| {
                let content = match fs::read_link(&path) {
                    Ok(link) => link.into_os_string().into_encoded_bytes(),
                    Err(_) => fs::read(&path).unwrap_or_default(),
                };
                (path, content)
            })
            .collect();
        content.sort();
        content
    }

    #[test]
    fn what_others_made_is_left_alone() {
        /// Puts something at a path; there is a file elsewhere to link to.
        type Put = fn(&Path, &Path);
        let others: [(&str, Put); 6] = [
            ("f.h5.partial", |path, _| fs::write(path, "thesis").unwrap()),
            ("f.h5.partial", |path, elsewhere| std::os::unix::fs::symlink(elsewhere, path).unwrap()),
            ("f.h5.partial", |path, _| std::os::unix::fs::symlink("nowhere", path).unwrap()),
            ("f.h5.partial.json", |path, _| fs::write(path, "{\"thesis\": 1}").unwrap()),
            ("f.h5.partial.json", |path, elsewhere| std::os::unix::fs::symlink(elsewhere, path).unwrap()),
            ("f.h5.partial.json", |path, _| fs::create_dir(path).unwrap()),
        ];
        for (name, make) in others {
            let directory = tempfile::tempdir().unwrap();
            let out = directory.path().join("f.h5");
            let elsewhere = directory.path().join("elsewhere");
            fs::write(&elsewhere, "").unwrap();
            make(&directory.path().join(name), &elsewhere);
            let before = content(directory.path());
            let error = open(&out).unwrap_err();
            assert!(matches!(error, Error::Exists { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{name}: is in the way")), "{error}");
            assert_eq!(content(directory.path()), before);
        }
    }

    #[test]
    fn a_file_killed_at_once_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("f.h5");
        for journal in ["", "{\"made_from\":null,\"n_done\":0}"] {
            fs::write(journal_path(&out), journal).unwrap();
            assert_eq!(open(&out).unwrap().progress(), None);
        }
        assert_eq!(content(directory.path()), []);
    }

    #[test]
    fn a_finished_file_is_replaced_only_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("f.h5");
        let late = open(&out).unwrap();
        fs::write(late.path(), "late").unwrap();
        fs::write(&out, "old").unwrap();
        assert!(open(&out).unwrap_err().to_string().contains("already exists"));
        // The destination has appeared since, and both files are kept.
        late.save_progress("a.tsv", 1).unwrap();
        assert!(late.finish().unwrap_err().to_string().contains("another file appeared under that name"));
        assert_eq!(fs::read(&out).unwrap(), b"old");
        assert_eq!(fs::read(partial_path(&out)).unwrap(), b"late");

        Partial::open(&out, IfExists::Replace).unwrap().finish().unwrap();
        assert_eq!(content(directory.path()), [(out, b"late".to_vec())]);
    }
}
