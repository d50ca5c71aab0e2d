//! Recognising the form of a file, and reading it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::kind::kind_of;
use crate::questions::import::columns::{ColumnNames, find_columns, known_names};
use crate::questions::import::delimited::{RaggedRow, read_delimited};
use crate::questions::import::embedded::Embedded;
use crate::questions::import::forms::{JSON_FORMS, KNOWN, daquar, vqa};
use crate::questions::import::json_entries::{EntriesAt, Entry, Peek, another_list, for_each_entry, peek};
use crate::questions::import::reader::{beginning, magic};
use crate::questions::import::rows::Rows;
use crate::questions::import::split_name::SplitName;
use crate::questions::import::table::push_values;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadFile {
    /// The file.
    pub file: PathBuf,
    /// The form that it was recognised as.
    pub form: String,
}

/// What was read from the files.
pub(super) struct ReadFiles {
    pub files: Vec<ReadFile>,
    pub rows: Rows,
    /// The files, indexed by the numbers that [`Rows::place`] returns.
    pub started: Vec<PathBuf>,
    /// Rows that were left out, each with its file.
    pub ragged: Vec<(PathBuf, RaggedRow)>,
    /// Pictures that were inside the files.
    pub embedded: Embedded,
}

impl ReadFiles {
    fn start(&mut self, path: &Path, split: Option<SplitName>) {
        self.started.push(path.to_owned());
        self.rows.start_file(split);
    }
}

/// Reads all files, each in its own form. Pictures inside them are written below `out`.
///
/// # Errors
///
/// When a file cannot be read or its form is unknown.
pub(super) fn read_files(paths: &[PathBuf], given: &ColumnNames, skip_bad: bool, out: &Path) -> Result<ReadFiles> {
    let mut read = ReadFiles {
        files: Vec::new(),
        rows: Rows::default(),
        started: Vec::new(),
        ragged: Vec::new(),
        embedded: Embedded::new(out),
    };
    let mut parts = Vec::new();
    for path in paths {
        let form = read_file(path, given, skip_bad, &mut read, &mut parts)?;
        read.files.push(ReadFile { file: path.clone(), form });
    }
    let ReadFiles { rows, started, .. } = &mut read;
    vqa::read_parts(&parts, rows, &mut |path, rows, split| {
        started.push(path.to_owned());
        rows.start_file(Some(split));
    })?;
    Ok(read)
}

/// Reads a file, or adds it to `parts` if it must be joined with others. Returns the name of its form.
fn read_file(
    path: &Path,
    given: &ColumnNames,
    skip_bad: bool,
    read: &mut ReadFiles,
    parts: &mut Vec<vqa::PartFile>,
) -> Result<String> {
    let split = SplitName::of_file(path);
    if &magic(path)? == b"PAR1" {
        read.start(path, split);
        return read_parquet(path, given, read);
    }
    let start = beginning(path)?;
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start();
    let first_line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if matches!(text.first(), Some(b'[' | b'{')) {
        let own = given.names();
        let Some(peek) = peek(path, &own)? else {
            return Err(unknown_form(path, "JSON without a list of questions"));
        };
        if given.is_empty() {
            if let Some(part) = vqa::recognize(path, &peek) {
                let form = part.form.to_owned();
                parts.push(part);
                return Ok(form);
            }
            if let Some(form) = JSON_FORMS.iter().find(|form| (form.fits)(&peek)) {
                read.start(path, split);
                let entries = &form.entries;
                let push = |entry: &Entry, rows: &mut Rows| entries.push(entry, rows);
                push_entries(path, &peek.at, &entries.wanted(), &mut read.rows, &push)?;
                return Ok(form.name.to_owned());
            }
        }
        read.start(path, split);
        return read_entries(path, &peek, given, &mut read.rows);
    }
    if given.is_empty() && daquar::is_lines(text) {
        read.start(path, split);
        daquar::read_lines(path, &mut read.rows)?;
        return Ok(daquar::LINES.to_owned());
    }
    let has_delimiter = first_line.iter().any(|byte| b",;\t".contains(byte));
    if let Some(kind) = kind_of(text) {
        return Err(Error::wrong_format(path, kind.instead_of("CSV, JSON or Parquet")));
    }
    if !has_delimiter || start.contains(&0) {
        return Err(unknown_form(path, "neither a table nor JSON"));
    }
    read.start(path, split);
    let table = read_delimited(path, given, skip_bad, &mut read.rows)?;
    read.ragged.extend(table.ragged.into_iter().map(|ragged| (path.to_owned(), ragged)));
    Ok(table.form)
}

/// Reads entries whose fields are like the columns of a table.
fn read_entries(path: &Path, peek: &Peek, given: &ColumnNames, rows: &mut Rows) -> Result<String> {
    if let EntriesAt::Key(key) = &peek.at
        && let Some(other) = another_list(path, key)?
    {
        let problem = format!(
            "questions or annotations under both \"{key}\" and \"{other}\": write each list to a file of its own, with \
             the split in its name"
        );
        return Err(Error::wrong_format(path, problem));
    }
    let mut there: Vec<String> = peek.first.keys().cloned().collect();
    // Other entries may have fields that the first one lacks.
    for_each_entry(path, &peek.at, &known_names(), &mut |entry| {
        let others: Vec<String> = entry.fields.keys().filter(|name| !there.contains(name)).cloned().collect();
        there.extend(others);
        Ok(())
    })?;
    let columns = find_columns(path, &there, given)?;
    let wanted: BTreeSet<&str> = columns.names().into_iter().collect();
    push_entries(path, &peek.at, &wanted, rows, &|entry, rows| {
        push_values(&columns, entry.fields, entry.number, rows)
    })?;
    Ok(match &peek.at {
        EntriesAt::Lines => "JSON lines".to_owned(),
        EntriesAt::Top => "JSON list".to_owned(),
        EntriesAt::Key(key) => format!("JSON list under \"{key}\""),
        EntriesAt::Values => "JSON object of questions".to_owned(),
    })
}

/// Adds all entries of a file.
fn push_entries(
    path: &Path,
    at: &EntriesAt,
    wanted: &BTreeSet<&str>,
    rows: &mut Rows,
    push: &dyn Fn(&Entry, &mut Rows) -> Result<(), String>,
) -> Result<()> {
    for_each_entry(path, at, wanted, &mut |entry| {
        let of_entry = |problem: String| {
            let name = entry.key.map_or_else(|| entry.number.to_string(), |key| format!("\"{key}\""));
            Error::damaged(path, format!("entry {name}: {problem}"))
        };
        push(&entry, rows).map_err(of_entry)
    })
}

#[cfg(feature = "parquet")]
fn read_parquet(path: &Path, given: &ColumnNames, read: &mut ReadFiles) -> Result<String> {
    crate::questions::import::parquet::read_parquet(path, given, &mut read.embedded, &mut read.rows)?;
    Ok("Parquet".to_owned())
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(path: &Path, _: &ColumnNames, _: &mut ReadFiles) -> Result<String> {
    Err(Error::wrong_format(path, "Parquet, which this build does not read: build with the cargo feature parquet"))
}

fn unknown_form(path: &Path, what: &str) -> Error {
    Error::wrong_format(path, format!("{what}, and not in a known format. The known formats are {KNOWN}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn json_with_columns_of_a_table() {
        let entries = [
            r#"{"question": "What?", "answer": ["a b", "c"], "image": "x/1.jpg", "split": "val", "question_id": 3}"#,
            r#"{"question": "Is it?", "answer": true, "image": "2.jpg", "question_id": "7", "extra": {"a": [1]}}"#,
        ];
        for (text, form) in [
            (format!("[{}]", entries.join(",")), "JSON list"),
            (entries.join("\n"), "JSON lines"),
            (format!("{{\"version\": 1, \"rows\": [{}]}}", entries.join(",")), "JSON list under \"rows\""),
        ] {
            let rows = read("data.json", &text, form);
            assert_eq!(rows.len(), 2);
            assert_eq!(row(&rows, 0), "val x/1.jpg(-) What?(3) b|c - -");
            assert_eq!(row(&rows, 1), "train 2.jpg(-) Is it?(7) yes - -");
        }
    }

    #[test]
    fn unknown_forms_are_told_what_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let problem = |text: &[u8], columns: &str| {
            std::fs::write(&path, text).unwrap();
            let given = if columns.is_empty() { ColumnNames::default() } else { columns.parse().unwrap() };
            read_files(std::slice::from_ref(&path), &given, false, directory.path())
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        for text in ["hello\nworld\n", "[1, 2]", "{\"a\": 1}", "[]"] {
            let problem = problem(text.as_bytes(), "");
            for words in ["data: ", "not in a known format", "Visual Genome", "Parquet", "JSON lines"] {
                assert!(problem.contains(words), "{text}: {problem}");
            }
        }
        for (text, columns, words) in [
            (
                &b"[{\"text\": \"a\", \"image\": \"b\"}]"[..],
                "",
                "no question column: its columns are \"image\", \"text\"",
            ),
            (
                b"[{\"question\": \"a\", \"image\": \"b\"}, {\"question\": [1], \"image\": \"b\"}]",
                "",
                "entry 2: \"question\" is a list",
            ),
            (b"[{\"Q\": \"a\", \"image\": \"b\"}]", "question=P", "no column \"P\""),
            (b"PK\x03\x04 zip", "", "a zip archive"),
            (b"<html></html>", "", "a web page"),
        ] {
            let problem = problem(text, columns);
            assert!(problem.contains(words), "{problem}");
        }
    }
}
