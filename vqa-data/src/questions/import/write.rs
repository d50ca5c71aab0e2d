//! Writing VQA2.0's files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result};
use crate::files::atomic::AtomicFile;
use crate::questions::annotations::Symbol;
use crate::questions::import::answers::{ANNOTATORS, answer_type, ten};
use crate::questions::import::question_type::question_type;
use crate::questions::import::rows::Rows;

/// The questions to write to a file: their rows, in order, and their ids.
pub(super) struct QuestionsToWrite<'a> {
    pub rows: &'a Rows,
    pub numbers: &'a [u32],
    pub question_id: &'a dyn Fn(usize) -> u64,
    pub image_id: &'a dyn Fn(usize) -> u64,
}

/// Files that are complete and wait for the others, so that all appear or none.
#[derive(Default)]
pub(super) struct PendingFiles(Vec<AtomicFile>);

impl PendingFiles {
    /// Writes a file that will appear at `path`.
    pub(super) fn write(
        &mut self,
        path: &Path,
        fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        const AT_A_TIME: usize = 1 << 20;
        let file = AtomicFile::create(path)?;
        let open = File::create(file.path()).map_err(Error::io("write", path))?;
        let mut writer = BufWriter::with_capacity(AT_A_TIME, open);
        fill(&mut writer).and_then(|()| writer.flush()).map_err(Error::io("write", path))?;
        self.0.push(file);
        Ok(())
    }

    /// Gives all files their final names, and returns these.
    pub(super) fn finish(self) -> Result<Vec<PathBuf>> {
        let finish = |file: AtomicFile| {
            let path = file.destination().to_owned();
            file.finish().map(|()| path)
        };
        self.0.into_iter().map(finish).collect()
    }
}

/// The beginning of a file, up to and including the opening bracket of its list.
fn header(split: &str, made_from: &str, list: &str) -> String {
    let info = json!({"description": format!("Imported by vqa from {made_from}"), "version": "1.0"});
    format!(
        "{{\"info\": {info}, \"data_type\": \"imported\", \"data_subtype\": \"{split}\", \"task_type\": \
         \"Open-Ended\", \"{list}\": [\n"
    )
}

/// Writes a questions file.
pub(super) fn write_questions(
    out: &mut dyn Write,
    split: &str,
    made_from: &str,
    written: &QuestionsToWrite,
) -> std::io::Result<()> {
    out.write_all(header(split, made_from, "questions").as_bytes())?;
    for (i, row) in written.numbers.iter().map(|&row| row as usize).enumerate() {
        let comma = if i == 0 { "" } else { ",\n" };
        let (question_id, image_id) = ((written.question_id)(row), (written.image_id)(row));
        write!(out, "{comma}{{\"image_id\": {image_id}, \"question\": ")?;
        serde_json::to_writer(&mut *out, written.rows.question(row))?;
        write!(out, ", \"question_id\": {question_id}}}")?;
    }
    out.write_all(b"\n]}\n")
}

/// Writes an annotations file: ten answers a question.
pub(super) fn write_annotations(
    out: &mut dyn Write,
    split: &str,
    made_from: &str,
    written: &QuestionsToWrite,
    first_choice: &dyn Fn(usize) -> Symbol,
) -> std::io::Result<()> {
    let rows = written.rows;
    // Formatted once: formatting numbers would be most of the work.
    let after_answer: Vec<String> = (1..=ANNOTATORS)
        .map(|number| {
            let end = if number == ANNOTATORS { "" } else { ", {\"answer\": " };
            format!(", \"answer_confidence\": \"yes\", \"answer_id\": {number}}}{end}")
        })
        .collect();
    let quoted: Vec<String> =
        (0..rows.answers().len() as Symbol).map(|s| json!(rows.answers().get(s)).to_string()).collect();
    out.write_all(header(split, made_from, "annotations").as_bytes())?;
    for (i, row) in written.numbers.iter().map(|&row| row as usize).enumerate() {
        let (question_id, image_id) = ((written.question_id)(row), (written.image_id)(row));
        let first = first_choice(row);
        let comma = if i == 0 { "" } else { ",\n" };
        write!(out, "{comma}{{\"question_type\": ")?;
        serde_json::to_writer(&mut *out, rows.question_type(row).unwrap_or_else(|| question_type(rows.question(row))))?;
        write!(out, ", \"multiple_choice_answer\": {}, \"answers\": [", quoted[first as usize])?;
        out.write_all(b"{\"answer\": ")?;
        for (after, answer) in after_answer.iter().zip(ten(rows.given(row))) {
            out.write_all(quoted[answer as usize].as_bytes())?;
            out.write_all(after.as_bytes())?;
        }
        write!(out, "], \"image_id\": {image_id}, \"answer_type\": ")?;
        serde_json::to_writer(
            &mut *out,
            rows.answer_type(row).unwrap_or_else(|| answer_type(rows.answers().get(first))),
        )?;
        write!(out, ", \"question_id\": {question_id}}}")?;
    }
    out.write_all(b"\n]}\n")
}

/// Writes `images.json`, from ids in ascending order.
pub(super) fn write_images<'a>(
    out: &mut dyn Write,
    images: impl Iterator<Item = (u64, &'a Path)>,
) -> std::io::Result<()> {
    out.write_all(b"{")?;
    for (i, (image_id, path)) in images.enumerate() {
        let comma = if i == 0 { "\n" } else { ",\n" };
        write!(out, "{comma}\"{image_id}\": {}", json!(path.to_string_lossy()))?;
    }
    out.write_all(b"\n}\n")
}

/// The relative path from a directory to a file. Both must be absolute and without links.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let mut from = from.components().peekable();
    let mut to = to.components().peekable();
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    from.map(|_| Component::ParentDir).chain(to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_from_one_to_the_other() {
        for (from, to, path) in [
            ("/a/out", "/a/out/images/1.jpg", "images/1.jpg"),
            ("/a/out", "/a/photos/1.jpg", "../photos/1.jpg"),
            ("/a/b/out", "/c/1.jpg", "../../../c/1.jpg"),
            ("/", "/1.jpg", "1.jpg"),
        ] {
            assert_eq!(relative(from.as_ref(), to.as_ref()), Path::new(path), "{from} {to}");
        }
    }
}
