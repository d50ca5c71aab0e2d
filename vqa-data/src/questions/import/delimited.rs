//! CSV and TSV.

use std::borrow::Cow;
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Terminator};

use crate::error::{Error, Result};
use crate::message::counted;
use crate::questions::import::cell::list_or_text;
use crate::questions::import::columns::{ColumnNames, Columns, find_columns};
use crate::questions::import::forms::daquar;
use crate::questions::import::reader::{beginning, open_reader};
use crate::questions::import::rows::Rows;
use crate::questions::import::table::Cells;

/// Longer than any question or answer, in bytes: a longer field has swallowed the rest of the file.
const MAX_FIELD: usize = 1 << 16;

/// A row that does not match the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RaggedRow {
    /// Counted from 1.
    pub line: u64,
    pub problem: String,
}

/// What was found in reading a table.
pub(super) struct ReadTable {
    pub form: String,
    /// Rows that were left out.
    pub ragged: Vec<RaggedRow>,
}

/// Reads a table with a header.
///
/// # Errors
///
/// When it cannot be read, is not UTF-8, or lacks a column; when rows have more or fewer fields than the header, unless
/// `skip_bad` leaves them out.
pub(super) fn read_delimited(path: &Path, given: &ColumnNames, skip_bad: bool, rows: &mut Rows) -> Result<ReadTable> {
    let delimiter = sniff(&beginning(path)?);
    // The library's default terminator, which may be \r\n, would miscount lines in that case.
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .terminator(Terminator::Any(b'\n'))
        .flexible(true)
        .from_reader(open_reader(path)?);
    let not_read = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) => Error::io("read", path)(error),
        other => Error::damaged(path, format!("{other:?}")),
    };
    let header = reader.byte_headers().map_err(not_read)?.clone();
    let names = fields(path, &header, 1)?;
    let names: Vec<String> = names.into_iter().map(|name| name.trim().to_owned()).collect();
    let columns = find_columns(path, &names, given)?;
    let places = ColumnIndices::new(&columns, &names);
    let mut record = ByteRecord::new();
    let mut ragged = Vec::new();
    let mut is_daquar = None;
    while reader.read_byte_record(&mut record).map_err(not_read)? {
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() == 1 && record[0].trim_ascii().is_empty() {
            continue;
        }
        if let Some(problem) = problem_of(&record, names.len(), delimiter) {
            if !skip_bad {
                let problem = format!("line {line}: {problem}, or leave such rows out with --skip-bad");
                return Err(Error::damaged(path, problem));
            }
            ragged.push(RaggedRow { line, problem });
            continue;
        }
        let fields = fields(path, &record, line)?;
        let is_daquar = *is_daquar.get_or_insert_with(|| daquar::is_csv(&names, fields[places.image]));
        places.push(path, &fields, line, is_daquar, rows)?;
    }
    let form = match (is_daquar, delimiter) {
        (Some(true), _) => "DAQUAR (CSV)",
        (_, b'\t') => "TSV",
        (_, b';') => "CSV with semicolons",
        _ => "CSV",
    };
    Ok(ReadTable { form: form.to_owned(), ragged })
}

/// Guesses the delimiter: whichever of comma, semicolon and tab the header has most of, outside quotes.
fn sniff(text: &[u8]) -> u8 {
    let mut is_quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for &byte in text {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\n' if !is_quoted => break,
            _ if is_quoted => {}
            _ => counts.iter_mut().filter(|(mark, _)| *mark == byte).for_each(|(_, n)| *n += 1),
        }
    }
    // Among equal counts, the first.
    counts.iter().rev().max_by_key(|(_, n)| *n).map_or(b',', |&(mark, _)| mark)
}

/// What is wrong with the shape of a row, and the remedy.
fn problem_of(record: &ByteRecord, n_columns: usize, delimiter: u8) -> Option<String> {
    if record.iter().any(|field| field.len() > MAX_FIELD) {
        return Some(
            "a quote is opened here and not closed: close it, or double it where it is part of the text".into(),
        );
    }
    if record.len() == n_columns {
        return None;
    }
    let mark = match delimiter {
        b'\t' => "a tab",
        b';' => "a semicolon",
        _ => "a comma",
    };
    let remedy = match record.len() > n_columns {
        true => format!("put fields that contain {mark} in double quotes"),
        false => "complete the row".to_owned(),
    };
    Some(format!("{}, but the header has {n_columns}: {remedy}", counted(record.len(), "field")))
}

/// The fields of a record as text.
fn fields<'a>(path: &Path, record: &'a ByteRecord, line: u64) -> Result<Vec<&'a str>> {
    let text = |field: &'a [u8]| {
        std::str::from_utf8(field).map_err(|error| {
            let byte = field[error.valid_up_to()];
            let problem = format!(
                "line {line}: the byte 0x{byte:02x} is not UTF-8: if it is Latin-1, convert it with `iconv -f latin1 \
                 -t utf-8`"
            );
            Error::wrong_format(path, problem).because(error)
        })
    };
    let mut fields: Vec<&str> = record.iter().map(text).collect::<Result<_>>()?;
    if let Some(last) = fields.last_mut() {
        *last = last.strip_suffix('\r').unwrap_or(last);
    }
    Ok(fields)
}

/// The indices of the columns.
struct ColumnIndices {
    question: usize,
    image: usize,
    answer: Option<usize>,
    question_id: Option<usize>,
    image_id: Option<usize>,
    question_type: Option<usize>,
    answer_type: Option<usize>,
    split: Option<usize>,
}

impl ColumnIndices {
    fn new(columns: &Columns, names: &[String]) -> ColumnIndices {
        let place = |name: &str| names.iter().position(|there| there == name).expect("columns are among those there");
        let optional = |name: &Option<String>| name.as_deref().map(place);
        ColumnIndices {
            question: place(&columns.question),
            image: place(&columns.image),
            answer: optional(&columns.answer),
            question_id: optional(&columns.question_id),
            image_id: optional(&columns.image_id),
            question_type: optional(&columns.question_type),
            answer_type: optional(&columns.answer_type),
            split: optional(&columns.split),
        }
    }

    fn push(&self, path: &Path, fields: &[&str], line: u64, is_daquar: bool, rows: &mut Rows) -> Result<()> {
        let optional = |place: Option<usize>| place.map(|place| Cow::Borrowed(fields[place]));
        let answers = match self.answer.map(|place| fields[place]) {
            None => Vec::new(),
            Some(answer) if is_daquar => vec![daquar::first_answer(answer).into()],
            Some(answer) => list_or_text(answer)
                .map_err(|problem| Error::damaged(path, format!("line {line}: the answer is {problem}")))?,
        };
        let cells = Cells {
            question: fields[self.question].into(),
            image: fields[self.image].into(),
            answers,
            question_id: optional(self.question_id),
            image_id: optional(self.image_id),
            question_type: optional(self.question_type),
            answer_type: optional(self.answer_type),
            split: optional(self.split),
        };
        cells.push(line, rows).map_err(|problem| Error::damaged(path, format!("line {line}: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, skip_bad: bool) -> Result<(ReadTable, Rows), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qa.csv");
        std::fs::write(&path, text).unwrap();
        let mut rows = Rows::default();
        rows.start_file(None);
        let table = read_delimited(&path, &ColumnNames::default(), skip_bad, &mut rows).map_err(|e| e.to_string())?;
        Ok((table, rows))
    }

    fn texts(rows: &Rows) -> Vec<(&str, &str, Vec<&str>)> {
        let given = |row| rows.given(row).iter().map(|&symbol| rows.answers().get(symbol)).collect();
        let image = |row| rows.image_names().get(rows.image(row));
        (0..rows.len()).map(|row| (rows.question(row), image(row), given(row))).collect()
    }

    /// As Python's csv module writes them, with each delimiter.
    #[test]
    fn the_same_table_in_all_its_forms() {
        let rows = [
            ["question", "answer", "image"],
            ["what, then?", "say \"x\"; y", "a b.jpg"],
            ["two\nlines", "['p', 'q']", "c.jpg"],
        ];
        for (mark, form) in [(",", "CSV"), (";", "CSV with semicolons"), ("\t", "TSV")] {
            for (start, end) in [("", "\n"), ("\u{feff}", "\r\n")] {
                let quoted = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
                let line = |row: &[&str; 3]| row.map(quoted).join(mark) + end;
                let text = start.to_owned() + &rows.iter().map(line).collect::<String>() + end;
                let (table, read) = read(&text, false).unwrap();
                assert_eq!(table.form, form);
                assert_eq!(
                    texts(&read),
                    [("what, then?", "a b.jpg", vec!["say x y"]), ("two\nlines", "c.jpg", vec!["p", "q"])],
                );
                assert_eq!((read.place(0), read.place(1)), ((0, 2), (0, 3)));
            }
        }
    }

    #[test]
    fn ragged_rows_have_a_line() {
        let text = "question,answer,image\na?,b,1\nc, d?,e,2\nf?,g\nh?,i,3\n";
        let problem = read(text, false).map(|_| ()).unwrap_err();
        assert!(
            problem.contains("line 3: 4 fields, but the header has 3: put fields that contain a comma"),
            "{problem}"
        );
        let (table, rows) = read(text, true).unwrap();
        assert_eq!(table.ragged.iter().map(|ragged| ragged.line).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(texts(&rows), [("a?", "1", vec!["b"]), ("h?", "3", vec!["i"])]);
        let open = format!("question,answer,image\n\"a?,b,1\n{}", "c?,d,2\n".repeat(20_000));
        let problem = read(&open, false).map(|_| ()).unwrap_err();
        assert!(problem.contains("line 2: a quote is opened here and not closed"), "{problem}");
    }

    #[test]
    fn what_is_no_table_of_questions_is_named() {
        for (text, words) in [
            ("text,answer,image\na,b,c\n", "no question column: its columns are \"text\", \"answer\", \"image\""),
            ("question,answer\na,b\n", "no image column"),
            (
                "question,image,answers\na,b,\"[{'answer': 1}]\"\n",
                "line 2: the answer is a list of Python dictionaries",
            ),
            ("", "is empty"),
        ] {
            let problem = read(text, false).map(|_| ()).unwrap_err();
            assert!(problem.contains("qa.csv: ") && problem.contains(words), "{problem}");
        }
    }
}
