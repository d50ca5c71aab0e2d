//! Collects verdicts on answers, for later training.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use vqa_data::Error;
use vqa_data::files::write_atomic;

use crate::error::{self, Result};

/// A JSON-lines file of questions about pictures with their right answers, as `vqa import` reads it, and a directory
/// beside it for the pictures.
pub(super) struct Collector {
    path: PathBuf,
    /// For example `answers_pictures` beside `answers.jsonl`.
    pictures: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
}

struct State {
    file: File,
    /// Total size of the pictures in bytes.
    n_bytes: u64,
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
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(path).map_err(Error::io("open", path))?;
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
        std::fs::create_dir_all(&pictures).map_err(Error::io("create the directory", &pictures))?;
        let mut n_bytes = 0;
        for entry in std::fs::read_dir(&pictures).map_err(Error::io("read the directory", &pictures))? {
            n_bytes += entry.and_then(|entry| entry.metadata()).map_or(0, |metadata| metadata.len());
        }
        // If the last line was cut short, end it, so that the next one starts on a new line.
        end_line(&mut file).map_err(Error::io("write", path))?;
        Ok(Collector { path: path.to_owned(), pictures, max_bytes, state: Mutex::new(State { file, n_bytes }) })
    }

    /// The directory for the pictures.
    pub fn pictures(&self) -> &Path {
        &self.pictures
    }

    /// Appends a verdict, and stores its picture.
    pub fn keep(&self, verdict: &Verdict, picture: &[u8]) -> Result<(), NotKept> {
        let mut line = serde_json::to_vec(verdict).expect("texts can be written");
        line.push(b'\n');
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.pictures.join(&verdict.image);
        if !path.exists() {
            if state.n_bytes + picture.len() as u64 > self.max_bytes {
                return Err(NotKept::Full);
            }
            write_atomic(&path, picture).map_err(|error| NotKept::Failed(error.into()))?;
            state.n_bytes += picture.len() as u64;
        }
        let written = state.file.write_all(&line).and_then(|()| state.file.flush());
        written.map_err(|error| NotKept::Failed(Error::io("write", &self.path)(error).into()))
    }
}

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
