//! Rows of any table, by its columns.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::message::shorten;
use crate::questions::import::cell;
use crate::questions::import::columns::Columns;
use crate::questions::import::rows::{NewRow, Rows};
use crate::questions::import::split_name::SplitName;
use crate::questions::whole_number::whole_number_of;

/// Adds the row of a table, given as JSON values.
///
/// # Errors
///
/// When a value is of the wrong kind for its column. The message names the column.
pub(super) fn push_values(
    columns: &Columns,
    values: &Map<String, Value>,
    place: u64,
    rows: &mut Rows,
) -> Result<(), String> {
    let of_column = |name: &str, problem: String| format!("\"{name}\" is {problem}");
    let text = |name: &str| {
        let value = values.get(name).unwrap_or(&Value::Null);
        cell::text(value).map_err(|problem| of_column(name, problem))
    };
    let optional = |name: &Option<String>| name.as_deref().map(text).transpose();
    let answers = match &columns.answer {
        Some(name) => {
            let value = values.get(name).unwrap_or(&Value::Null);
            cell::answers(value).map_err(|problem| of_column(name, problem))?
        }
        None => Vec::new(),
    };
    let cells = Cells {
        question: text(&columns.question)?,
        image: text(&columns.image)?,
        answers,
        question_id: optional(&columns.question_id)?,
        image_id: optional(&columns.image_id)?,
        question_type: optional(&columns.question_type)?,
        answer_type: optional(&columns.answer_type)?,
        split: optional(&columns.split)?,
    };
    cells.push(place, rows)
}

/// Parses an id. pandas turns a 9 into 9.0 in a column with a gap in it.
fn id_of(cell: &str) -> Option<u64> {
    let cell = cell.trim();
    whole_number_of(cell.strip_suffix(".0").unwrap_or(cell))
}

/// The cells of a row, as text.
pub(super) struct Cells<'a> {
    pub question: Cow<'a, str>,
    pub image: Cow<'a, str>,
    pub answers: Vec<Cow<'a, str>>,
    pub question_id: Option<Cow<'a, str>>,
    pub image_id: Option<Cow<'a, str>>,
    pub question_type: Option<Cow<'a, str>>,
    pub answer_type: Option<Cow<'a, str>>,
    pub split: Option<Cow<'a, str>>,
}

impl Cells<'_> {
    /// Adds the row.
    ///
    /// # Errors
    ///
    /// When its split is none of those that there are.
    pub(super) fn push(&self, place: u64, rows: &mut Rows) -> Result<(), String> {
        let split = self.split.as_deref().map(str::trim).filter(|split| !split.is_empty());
        if let Some(unknown) = split.filter(|split| SplitName::of_name(split).is_none()) {
            return Err(format!(
                "the split \"{}\" is none of train, val and test: rename it, or name another column with --columns \
                 split=NAME",
                shorten(unknown)
            ));
        }
        let answers: Vec<&str> = self.answers.iter().map(|answer| &**answer).collect();
        rows.push(NewRow {
            place,
            question: &self.question,
            image: &self.image,
            image_id: self.image_id.as_deref().and_then(id_of),
            answers: &answers,
            first_choice: None,
            question_id: self.question_id.as_deref().and_then(id_of),
            question_type: self.question_type.as_deref(),
            answer_type: self.answer_type.as_deref(),
            split: split.and_then(SplitName::of_name),
        });
        Ok(())
    }
}
