//! The report of an import.

use std::fmt;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::Serialize;

use crate::message::counted;
use crate::questions::import::form::ReadFile;
use crate::questions::import::upper_bound::UpperBound;

/// The maximum number of names that a message lists.
const NAMED: usize = 5;

/// A split that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// Number of its questions.
    pub n_questions: usize,
    /// Number of pictures that they are about.
    pub n_images: usize,
    /// Whether they have answers.
    pub has_answers: bool,
}

/// A row that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file and the position in it.
    pub place: String,
    /// What is wrong.
    pub problem: String,
}

/// What an import has read and written. [`Display`](fmt::Display) formats it for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportReport {
    /// The files that were read, each with its form.
    pub files: Vec<ReadFile>,
    /// Number of questions that were written.
    pub n_questions: usize,
    /// Number of pictures that they are about.
    pub n_images: usize,
    /// Number of distinct answers that are the `multiple_choice_answer` of a question.
    pub n_answers: usize,
    /// Number of those that only one question has.
    pub n_answers_once: usize,
    /// The splits, by name.
    pub splits: IndexMap<&'static str, SplitCounts>,
    /// Number of questions with one answer, which was written ten times.
    pub n_one_answer: usize,
    /// Number of questions with two to nine answers, which were repeated in turn.
    pub n_few_answers: usize,
    /// Number of questions with more than ten answers, of which the first ten were written.
    pub n_more_answers: usize,
    /// The soft score that can be reached, by `dict.min_answer_count`.
    pub upper_bounds: Vec<UpperBound>,
    /// The `dict.min_answer_count` in the config.
    pub min_answer_count: usize,
    /// Number of rows that repeat the question, picture and answers of an earlier one. They were kept.
    pub n_duplicate_rows: usize,
    /// Number of questions without an answer, in splits where others have some. They were left out.
    pub n_without_answer: usize,
    /// Number of rows without a question. They were left out.
    pub n_empty_questions: usize,
    /// Answers that the official normalisation reduces to nothing. They count as none.
    pub vanished_answers: Vec<String>,
    /// Rows that were left out because of `--skip-bad`: those whose picture is missing, and ragged ones.
    pub skipped: Vec<Skipped>,
    /// Pictures that no question is about. They are not in `images.json`.
    pub images_without_questions: Vec<String>,
    /// Number of pictures that had no id of their own and were numbered in order; `images.json` lists them.
    pub n_numbered_images: usize,
    /// Whether the questions were numbered in order, because not all had an id of their own.
    pub numbered_questions: bool,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The config, which is among them.
    pub config: PathBuf,
    /// The list of the pictures' paths, `images.json`, which is among them.
    pub images: PathBuf,
}

/// Lists the first few names.
fn few<T: fmt::Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    let shown: Vec<String> = names.take(NAMED).map(|name| name.to_string()).collect();
    format!("{}{more}", shown.join(", "))
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ReadFile { file, form } in &self.files {
            writeln!(f, "read {} as {form}", file.display())?;
        }
        write!(f, "{}, {}, ", counted(self.n_questions, "question"), counted(self.n_images, "picture"))?;
        writeln!(f, "{}, {} of which only one question has", counted(self.n_answers, "answer"), self.n_answers_once)?;
        for (name, split) in &self.splits {
            let without = if split.has_answers { "" } else { ", without answers" };
            writeln!(f, "  {name:<6} {:>9} questions {:>8} pictures{without}", split.n_questions, split.n_images)?;
        }
        writeln!(f, "upper bound of the soft score")?;
        for bound in &self.upper_bounds {
            let chosen = if bound.min_answer_count == self.min_answer_count { "  (in the config)" } else { "" };
            writeln!(
                f,
                "  min_answer_count = {} {:>7} answers {:>8.2} %{chosen}",
                bound.min_answer_count, bound.n_candidates, bound.soft_score
            )?;
        }
        let counts = [
            (self.n_one_answer, "question", "with one answer: written ten times, as if ten people agreed"),
            (self.n_few_answers, "question", "with two to nine answers: repeated in turn until there were ten"),
            (self.n_more_answers, "question", "with more than ten answers: the first ten were written"),
            (self.n_duplicate_rows, "row", "with the same picture, question and answers as an earlier one: kept"),
            (self.n_without_answer, "question", "without an answer: left out"),
            (self.n_empty_questions, "row", "without a question: left out"),
        ];
        for (n, noun, what) in counts.into_iter().filter(|&(n, ..)| n > 0) {
            writeln!(f, "{} {what}", counted(n, noun))?;
        }
        if !self.vanished_answers.is_empty() {
            let answers = counted(self.vanished_answers.len(), "answer");
            let named = few(self.vanished_answers.iter());
            writeln!(
                f,
                "{answers} of which the official evaluator's normalisation leaves nothing, not counted: {named}"
            )?;
        }
        if !self.skipped.is_empty() {
            let named = self.skipped.iter().map(|skipped| format!("{}: {}", skipped.place, skipped.problem));
            writeln!(f, "{} skipped: {}", counted(self.skipped.len(), "row"), few(named))?;
        }
        if !self.images_without_questions.is_empty() {
            let pictures = counted(self.images_without_questions.len(), "picture");
            writeln!(f, "{pictures} without a question, left out: {}", few(self.images_without_questions.iter()))?;
        }
        if self.n_numbered_images > 0 {
            let (pictures, images) = (counted(self.n_numbered_images, "picture"), self.images.display());
            writeln!(f, "{pictures} without an id: numbered in order, see {images}")?;
        }
        if self.numbered_questions {
            writeln!(f, "questions were numbered in order")?;
        }
        let written = self.written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "wrote {written}")
    }
}
