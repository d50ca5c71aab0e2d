//! Collects verdicts on answers, for later training.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use vqa_data::Error;
use vqa_data::files::{create_directory, write_atomic};

use crate::error::{self, Result};

/// A JSON-lines file of questions about pictures with their right answers, as `vqa import` reads it, and a directory
/// beside it for the pictures. Both may be moved away, and the file edited, at any time: each verdict opens or creates
/// them again.
pub(super) struct Collector {
    path: PathBuf,
    /// For example `answers_pictures` beside `answers.jsonl`.
    pictures: PathBuf,
    max_bytes: u64,
    /// Total size of the pictures in bytes, as far as known: pictures that were taken away since still count.
    n_bytes: Mutex<u64>,
}

/// A line of the file.
#[derive(Debug, Serialize)]
pub(super) struct Verdict<'a> {
    /// The picture's name in the directory.
    pub image: String,
    pub question: &'a str,
    /// The right answer, or empty if that is not known; `vqa import` leaves such questions out.
    pub answer: &'a str,
    pub model_answer: &'a str,
    pub right: bool,
}

/// Why a verdict was not kept.
#[derive(Debug)]
pub(super) enum NotKept {
    /// The pictures have reached their limit in bytes.
    Full,
    Failed(error::Error),
}

impl Collector {
    /// Opens or creates the file.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, it holds something else, or the directory cannot be created.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Collector> {
        let mut file = open_to_append(path).map_err(Error::io("open", path))?;
        if !file.metadata().map_err(Error::io("read", path))?.is_file() {
            return Err(Error::wrong_format(
                path,
                "not a file, so verdicts cannot be kept in it: name a file with --collect",
            )
            .into());
        }
        let mut first = Vec::new();
        BufReader::new(&file).take(1 << 20).read_until(b'\n', &mut first).map_err(Error::io("read", path))?;
        if !first.is_empty() && !first.starts_with(b"{") {
            let problem = "it contains something other than verdicts: name a new file with --collect";
            return Err(Error::wrong_format(path, problem).into());
        }
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push("_pictures");
        let pictures = path.with_file_name(name);
        create_directory(&pictures)?;
        let n_bytes = Mutex::new(size_of_files(&pictures)?);
        // An error here is better than one for each verdict.
        end_line(&mut file).map_err(Error::io("write", path))?;
        Ok(Collector { path: path.to_owned(), pictures, max_bytes, n_bytes })
    }

    /// The file for the verdicts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for the pictures.
    pub fn pictures(&self) -> &Path {
        &self.pictures
    }

    /// Appends a verdict, and stores its picture.
    pub fn keep(&self, verdict: &Verdict, picture: &[u8]) -> Result<(), NotKept> {
        let mut line = serde_json::to_vec(verdict).expect("texts can be written");
        line.push(b'\n');
        let mut n_bytes = self.n_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.pictures.join(&verdict.image);
        if !path.exists() {
            let n_new = picture.len() as u64;
            create_directory(&self.pictures)?;
            if *n_bytes + n_new > self.max_bytes {
                // Pictures may have been taken away.
                *n_bytes = size_of_files(&self.pictures)?;
            }
            if *n_bytes + n_new > self.max_bytes {
                return Err(NotKept::Full);
            }
            write_atomic(&path, picture)?;
            *n_bytes += n_new;
        }
        let write = || {
            let mut file = open_to_append(&self.path)?;
            end_line(&mut file)?;
            file.write_all(&line)
        };
        Ok(write().map_err(Error::io("write", &self.path))?)
    }
}

impl From<Error> for NotKept {
    fn from(error: Error) -> NotKept {
        NotKept::Failed(error.into())
    }
}

/// Opens a file to read it and to append to it, and creates it if it is missing.
fn open_to_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

/// The total size of the files in a directory in bytes.
fn size_of_files(directory: &Path) -> vqa_data::Result<u64> {
    let entries = std::fs::read_dir(directory).map_err(Error::io("read the directory", directory))?;
    Ok(entries.map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |metadata| metadata.len())).sum())
}

/// Ends the last line if it was cut short, so that the next one starts on a new line.
fn end_line(file: &mut File) -> std::io::Result<()> {
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] { file.write_all(b"\n") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_whole_and_pictures_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("more.jsonl");
        std::fs::write(&path, "{\"cut\": \"sho").unwrap();
        let verdict = |question| Verdict {
            image: "p.png".to_owned(),
            question,
            answer: "red",
            model_answer: "blue",
            right: false,
        };
        let collector = Collector::open(&path, 10).unwrap();
        collector.keep(&verdict("\"why\"?\n"), b"12345678").unwrap();
        collector.keep(&verdict("how?"), b"12345678").unwrap();
        let other = Verdict { image: "q.png".to_owned(), ..verdict("who?") };
        assert!(matches!(collector.keep(&other, b"123"), Err(NotKept::Full)));
        drop(collector);
        // Pictures from before a restart count towards the limit too.
        assert!(matches!(Collector::open(&path, 10).unwrap().keep(&other, b"123"), Err(NotKept::Full)));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "{\"cut\": \"sho");
        let read: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        let expected = serde_json::json!(
            {"image": "p.png", "question": "\"why\"?\n", "answer": "red", "model_answer": "blue", "right": false}
        );
        assert_eq!(read, expected);
        assert_eq!((lines.len(), text.ends_with('\n')), (3, true));
        assert_eq!(std::fs::read(directory.path().join("more_pictures/p.png")).unwrap(), b"12345678");
        assert_eq!(std::fs::read_dir(directory.path().join("more_pictures")).unwrap().count(), 1);
    }

    /// After the file is replaced, as an editor does when it saves, or moved away, as log rotation does, the verdicts go
    /// to the file that has the name, and once the pictures are moved away there is room again.
    #[test]
    fn the_file_and_the_pictures_may_be_moved_away() {
        let directory = tempfile::tempdir().unwrap();
        let [path, old, pictures] = ["more.jsonl", "old", "more_pictures"].map(|name| directory.path().join(name));
        let verdict = |image: &str| Verdict {
            image: image.to_owned(),
            question: "what?",
            answer: "red",
            model_answer: "red",
            right: true,
        };
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().map(str::len).collect::<Vec<_>>();
        let collector = Collector::open(&path, 10).unwrap();
        collector.keep(&verdict("p.png"), b"12345678").unwrap();
        let len = lines(&path)[0];

        // Without the end of its last line.
        std::fs::write(&old, "{}\n{}").unwrap();
        std::fs::rename(&old, &path).unwrap();
        collector.keep(&verdict("p.png"), b"12345678").unwrap();
        assert_eq!(lines(&path), [2, 2, len]);

        std::fs::rename(&path, &old).unwrap();
        assert!(matches!(collector.keep(&verdict("q.png"), b"12345678"), Err(NotKept::Full)));
        std::fs::rename(&pictures, directory.path().join("old_pictures")).unwrap();
        collector.keep(&verdict("q.png"), b"12345678").unwrap();
        assert_eq!((lines(&old).len(), lines(&path)), (3, vec![len]));
        assert_eq!(std::fs::read(pictures.join("q.png")).unwrap(), b"12345678");
        assert!(matches!(collector.keep(&verdict("r.png"), b"12345678"), Err(NotKept::Full)));
        // In part, too.
        std::fs::remove_file(pictures.join("q.png")).unwrap();
        collector.keep(&verdict("r.png"), b"12345678").unwrap();
    }

    /// A file of another kind is left unchanged, and nothing is created beside it.
    #[test]
    fn other_files_are_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.toml");
        std::fs::write(&config, "seed = 1").unwrap();
        for path in [&config, Path::new("/dev/null"), directory.path(), &directory.path().join("nowhere/x.jsonl")] {
            assert!(Collector::open(path, 10).is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read_to_string(&config).unwrap(), "seed = 1");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
