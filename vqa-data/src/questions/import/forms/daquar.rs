//! DAQUAR: questions about indoor photos, each answered with the name of one or more things.
//!
//! One annotator answers, at times with several names, as in `chair, table`. The first one counts, as in the public
//! projects that train on the CSV.

use std::io::BufRead;
use std::path::Path;

use crate::error::{Error, Result};
use crate::questions::import::reader::open_reader;
use crate::questions::import::rows::{NewRow, Rows};

/// The name of the form of DAQUAR's original text files.
pub(in crate::questions::import) const LINES: &str = "DAQUAR (lines of questions and answers)";

/// Whether a table with these columns, whose first picture is called `image`, is DAQUAR's.
pub(in crate::questions::import) fn is_csv(columns: &[String], image: &str) -> bool {
    ["question", "answer", "image_id"].iter().all(|name| columns.iter().any(|column| column == name))
        && is_image(image.trim())
}

/// Returns the annotator's first answer, the one that counts.
pub(in crate::questions::import) fn first_answer(answers: &str) -> &str {
    answers.split(',').map(str::trim).find(|answer| !answer.is_empty()).unwrap_or("")
}

/// Whether a text begins as the original text does: with a question that ends in the name of a picture, and an answer.
pub(in crate::questions::import) fn is_lines(beginning: &[u8]) -> bool {
    let text = String::from_utf8_lossy(beginning);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().and_then(question_and_image);
    first.is_some() && lines.next().is_some_and(|answer| question_and_image(answer).is_none())
}

/// Reads the original text: lines with a question and lines with its answer, in turn.
///
/// # Errors
///
/// When it cannot be read, or a line is not what it should be.
pub(in crate::questions::import) fn read_lines(path: &Path, rows: &mut Rows) -> Result<()> {
    let of_line = |line: u64, problem: &str| Error::damaged(path, format!("line {line}: {problem}"));
    let mut question: Option<(u64, String)> = None;
    for (number, line) in (1..).zip(open_reader(path)?.lines()) {
        let line = line.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => of_line(number, "not UTF-8"),
            _ => Error::io("read", path)(error),
        })?;
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let Some((at, asked)) = question.take() else {
            question = Some((number, line.to_owned()));
            continue;
        };
        let Some((asked, image)) = question_and_image(&asked) else {
            return Err(of_line(at, "expected a question that ends in a picture, as in \"… in the image3 ?\""));
        };
        rows.push(NewRow { place: at, question: asked, image, answers: &[first_answer(line)], ..NewRow::default() });
    }
    match question {
        Some((at, _)) => Err(of_line(at, "the question has no answer on a line after it")),
        None => Ok(()),
    }
}

/// Splits `what is on the desk in the image3 ?` into the question, without the picture, and the picture.
fn question_and_image(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_end().strip_suffix('?')?.trim_end();
    let (question, image) = line.rsplit_once(char::is_whitespace)?;
    if !is_image(image) {
        return None;
    }
    let mut question = question.trim_end();
    for word in ["the", "in"] {
        let cut = question.strip_suffix(word).filter(|rest| rest.is_empty() || rest.ends_with(char::is_whitespace));
        question = cut.map_or(question, str::trim_end);
    }
    Some((question, image))
}

/// Whether a name is like `image3`.
fn is_image(name: &str) -> bool {
    let digits = name.strip_prefix("image").unwrap_or("");
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn questions_and_answers_on_lines() {
        let text = "what is on the desk in the image100 ?\ncup\nhow many chairs are there in the image3 ?\n6\n\
            what are the things on the wall in the image3 ?\npicture, night_stand\n";
        let rows = read("qa.txt", text, LINES);
        assert_eq!(rows.len(), 3);
        assert_eq!(row(&rows, 0), "train image100(-) what is on the desk(-) cup - -");
        assert_eq!(row(&rows, 2), "train image3(-) what are the things on the wall(-) picture - -");
        assert_eq!(rows.place(2), (0, 5));
    }

    #[test]
    fn a_table_of_three_columns() {
        let text = "question,answer,image_id\nwhat is it,\"chair, table\",image3\nwhat color,night_stand,image12\n";
        let rows = read("train.csv", text, "DAQUAR (CSV)");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "train image3(-) what is it(-) chair - -");
        assert_eq!(row(&rows, 1), "train image12(-) what color(-) night stand - -");
        // Any other table's commas are part of the answer.
        let rows = read("qa.csv", "question,answer,image_id\nwhat is it,\"chair, table\",3\n", "CSV");
        assert_eq!(row(&rows, 0), "train 3(-) what is it(-) chair table - -");
    }

    #[test]
    fn lines_out_of_step_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qa.txt");
        let problem = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut rows = Rows::default();
            rows.start_file(None);
            read_lines(&path, &mut rows).unwrap_err().to_string()
        };
        let problem_of_two = problem("a in the image1 ?\nb\nc\nd\n");
        assert!(
            problem_of_two.contains("qa.txt: line 3: expected a question that ends in a picture"),
            "{problem_of_two}"
        );
        assert!(problem("a in the image1 ?\nb\nc in the image1 ?\n").contains("line 3: the question has no answer"));
    }
}
