//! Records which folders of a directory a report has created, so that it can resume, and removes only its own.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vqa_data::Error;
use vqa_data::files::{create_directory, write_atomic};

use crate::error::Result;
use crate::report::folder::{is_complete, remove_folder, remove_temporaries};

/// The ledger's file, with one line when a folder is begun and another when it is finished.
const NAME: &str = "report.jsonl";

/// The page over all folders.
pub(super) const PAGE: &str = "index.html";

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    folder: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished: Option<Finished>,
}

/// What is recorded about a finished folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Finished {
    /// The fingerprint of everything that its files were drawn from.
    pub fingerprint: String,
    /// Of the picture, in pixels.
    pub width: u32,
    /// Of the picture, in pixels.
    pub height: u32,
}

/// The ledger of a directory. Its file is created when the first folder is begun; until then nothing is written.
#[derive(Debug)]
pub(super) struct Ledger {
    directory: PathBuf,
    file: Mutex<Option<File>>,
    /// The folders that earlier runs began, with what is recorded about those that they finished.
    earlier: BTreeMap<String, Option<Finished>>,
}

impl Ledger {
    /// Reads the ledger of a directory, if there is one, and locks it.
    ///
    /// # Errors
    ///
    /// When it cannot be read, another process has it locked, or the directory has a page that no report wrote.
    pub(super) fn open(directory: &Path) -> Result<Ledger> {
        let path = directory.join(NAME);
        let mut ledger = Ledger { directory: directory.to_owned(), file: Mutex::new(None), earlier: BTreeMap::new() };
        if path.exists() {
            let mut file = open(&path)?;
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.read_to_end(&mut bytes))
                .map_err(Error::io("read", &path))?;
            // If a kill cut the last line short, end it, so that the next entry starts on a new line.
            if bytes.last().is_some_and(|&last| last != b'\n') {
                file.write_all(b"\n").map_err(Error::io("write", &path))?;
            }
            for line in bytes.split(|&byte| byte == b'\n') {
                match serde_json::from_slice(line) {
                    Ok(Line { folder, finished }) if is_name(&folder) => ledger.earlier.insert(folder, finished),
                    _ => None,
                };
            }
            ledger.file = Mutex::new(Some(file));
        } else if directory.join(PAGE).exists() && ledger.folders()?.next().is_none() {
            let problem =
                "no report wrote it, and this one would overwrite it: move it away, or choose another directory";
            return Err(Error::Exists { path: directory.join(PAGE), problem: problem.to_owned() }.into());
        }
        Ok(ledger)
    }

    /// Returns what is recorded about a folder, if it is complete and has this fingerprint.
    pub(super) fn finished(&self, folder: &str, fingerprint: &str) -> Option<&Finished> {
        let finished = self.earlier.get(folder)?.as_ref()?;
        (finished.fingerprint == fingerprint && is_complete(&self.directory.join(folder))).then_some(finished)
    }

    /// Records that a folder is about to be written.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(super) fn begin(&self, folder: &str) -> Result<()> {
        self.append(Line { folder: folder.to_owned(), finished: None })
    }

    /// Records that a folder is finished.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be written.
    pub(super) fn finish(&self, folder: &str, finished: Finished) -> Result<()> {
        self.append(Line { folder: folder.to_owned(), finished: Some(finished) })
    }

    fn append(&self, line: Line) -> Result<()> {
        let path = self.directory.join(NAME);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            create_directory(&self.directory)?;
            *file = Some(open(&path)?);
        }
        let mut text = serde_json::to_string(&line).expect("strings and numbers");
        text.push('\n');
        let written = file.as_mut().map(|file| file.write_all(text.as_bytes()));
        Ok(written.unwrap_or(Ok(())).map_err(Error::io("write", &path))?)
    }

    /// Removes the folders of earlier runs that are not in `kept`, and temporary files of killed processes, then
    /// rewrites the ledger with `kept` alone.
    ///
    /// # Errors
    ///
    /// When something cannot be removed, or the ledger cannot be written.
    pub(super) fn close(self, kept: BTreeMap<String, Finished>) -> Result<()> {
        let made: HashSet<String> = self.folders()?.chain(self.earlier.keys().cloned()).collect();
        for folder in made.iter().filter(|folder| !kept.contains_key(*folder)) {
            remove_folder(&self.directory.join(folder))?;
        }
        remove_temporaries(&self.directory, &[PAGE, NAME])?;
        let line = |(folder, finished)| {
            let line = Line { folder, finished: Some(finished) };
            serde_json::to_string(&line).expect("strings and numbers") + "\n"
        };
        let text: String = kept.into_iter().map(line).collect();
        Ok(write_atomic(&self.directory.join(NAME), text.as_bytes())?)
    }

    /// The complete folders of questions in the directory. Early versions left them without a ledger.
    fn folders(&self) -> Result<impl Iterator<Item = String>> {
        let entries = fs::read_dir(&self.directory).map_err(Error::io("read the directory", &self.directory))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| is_name(name) && is_complete(&self.directory.join(name))))
    }
}

/// Opens a ledger's file for reading and appending, and locks it.
fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(Error::io("write", path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let problem = "another process is drawing into this directory: wait for it to finish".to_owned();
            Err(Error::InUse { path: path.to_owned(), problem, source: None }.into())
        }
        // Other errors are ignored: not every file system has locks.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Error::io("lock", path)(error).into())
        }
        _ => Ok(file),
    }
}

/// Whether a folder's name is one that a report could give: an id, or an id, `_` and a number.
fn is_name(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.split_once('_') {
        Some((id, number)) => is_number(id) && is_number(number),
        None => is_number(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(fingerprint: &str) -> Finished {
        Finished { fingerprint: fingerprint.to_owned(), width: 4, height: 3 }
    }

    fn make(folder: &Path) {
        for name in ["qa.txt", "original.jpg", "topdown_att.jpg"] {
            write_atomic(&folder.join(name), b"x").unwrap();
        }
    }

    #[test]
    fn a_folder_is_finished_once_its_last_line_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let ledger = Ledger::open(at).unwrap();
        assert!(!at.join(NAME).exists());
        ledger.begin("1").unwrap();
        ledger.begin("2_2").unwrap();
        ledger.finish("2_2", finished("a")).unwrap();
        ledger.finish("3", finished("a")).unwrap();
        ledger.begin("3").unwrap();
        ["1", "2_2", "3"].iter().for_each(|name| make(&at.join(name)));
        assert!(Ledger::open(at).unwrap_err().to_string().contains("another process"));
        drop(ledger);
        // A last line that a kill has cut short.
        let torn = fs::read_to_string(at.join(NAME)).unwrap() + "{\"folder\":\"1\",\"finis";
        fs::write(at.join(NAME), torn).unwrap();
        let ledger = Ledger::open(at).unwrap();
        assert_eq!(ledger.finished("2_2", "a"), Some(&finished("a")));
        assert_eq!(["1", "3", "4"].map(|name| ledger.finished(name, "a")), [None, None, None]);
        assert_eq!(ledger.finished("2_2", "b"), None);
        ledger.finish("1", finished("c")).unwrap();
        drop(ledger);
        assert_eq!(Ledger::open(at).unwrap().finished("1", "c"), Some(&finished("c")));
        fs::remove_file(at.join("1/original.jpg")).unwrap();
        assert_eq!(Ledger::open(at).unwrap().finished("1", "c"), None);
    }

    #[test]
    fn only_the_reports_own_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let ledger = Ledger::open(at).unwrap();
        ["1", "2", "5"].iter().for_each(|name| ledger.begin(name).unwrap());
        drop(ledger);
        // 1 is begun, 2 also holds somebody's notes, 3 is from a version without a ledger, 4 and "mine" are not a
        // report's.
        write_atomic(&at.join("1/.qa.txt.Ab12.tmp"), b"x").unwrap();
        ["2", "3", "mine", "5"].iter().for_each(|name| make(&at.join(name)));
        for name in ["2/notes.txt", "4/qa.txt", "1/.hidden", "thesis.tex"] {
            write_atomic(&at.join(name), b"mine").unwrap();
        }
        fs::remove_file(at.join("1/.hidden")).unwrap();
        // The ledger is not trusted: anybody may have edited it.
        let text = fs::read_to_string(at.join(NAME)).unwrap() + "{\"folder\":\"../mine\"}\n{\"folder\":\"mine\"}\n";
        fs::write(at.join(NAME), text).unwrap();
        Ledger::open(at).unwrap().close(BTreeMap::from([("5".to_owned(), finished("a"))])).unwrap();
        let left = |name: &str| at.join(name).exists();
        assert_eq!(["1", "2/qa.txt", "3"].map(left), [false; 3]);
        assert_eq!(["2/notes.txt", "4/qa.txt", "mine/qa.txt", "thesis.tex", "5/qa.txt"].map(left), [true; 5]);
        assert_eq!(Ledger::open(at).unwrap().finished("5", "a"), Some(&finished("a")));
    }

    #[test]
    fn a_page_that_no_report_wrote_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        write_atomic(&at.join(PAGE), b"mine").unwrap();
        let error = Ledger::open(at).unwrap_err().to_string();
        assert!(error.contains("index.html: no report wrote it"), "{error}");
        // An early version left no ledger, but folders.
        make(&at.join("7"));
        Ledger::open(at).unwrap();
    }
}
