//! What the forms of JSON files have in common.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::questions::import::cell;
use crate::questions::import::json_entries::{Entry, Peek};
use crate::questions::import::rows::{NewRow, Rows};
use crate::questions::import::split_name::SplitName;
use crate::questions::whole_number::whole_number_of;

/// A dataset's own form.
pub(in crate::questions::import) struct JsonForm {
    /// The dataset's name.
    pub name: &'static str,
    /// Whether a file with this beginning has the form.
    pub fits: fn(&Peek) -> bool,
    pub entries: Entries,
}

/// What the entries of a form are.
pub(in crate::questions::import) enum Entries {
    /// Each is a question, whose parts are in these fields.
    Questions(Fields),
    /// Each is something else: the `wanted` fields are read, and `push` adds its questions.
    Other { wanted: &'static [&'static str], push: fn(&Entry, &mut Rows) -> Result<(), String> },
}

/// Returns the split that the value of a field names.
pub(in crate::questions::import) type SplitOf = fn(&str) -> Option<SplitName>;

/// The names of the fields that hold the parts of a question.
pub(in crate::questions::import) struct Fields {
    pub question: &'static str,
    pub image: &'static str,
    pub answers: &'static str,
    /// If `None`, the key of the entry is the question's id.
    pub question_id: Option<&'static str>,
    pub image_id: Option<&'static str>,
    pub question_type: Option<&'static str>,
    pub answer_type: Option<&'static str>,
    /// The field that says which split a question belongs to, and how to read it.
    pub split: Option<(&'static str, SplitOf)>,
}

impl Fields {
    pub(in crate::questions::import) const DEFAULT: Fields = Fields {
        question: "question",
        image: "image",
        answers: "answer",
        question_id: None,
        image_id: None,
        question_type: None,
        answer_type: None,
        split: None,
    };

    fn push(&self, entry: &Entry, rows: &mut Rows) -> Result<(), String> {
        let id = |name: Option<&str>| name.map_or(Ok(None), |name| entry.id(name));
        let text = |name: Option<&str>| name.map_or(Ok(None), |name| entry.optional(name));
        let answers = entry.answers(self.answers)?;
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let of_key = if self.question_id.is_none() { entry.key.and_then(whole_number_of) } else { None };
        let split = match self.split {
            Some((name, split_of)) => entry.optional(name)?.as_deref().and_then(split_of),
            None => None,
        };
        rows.push(NewRow {
            place: entry.number,
            question: &entry.text(self.question)?,
            image: &entry.text(self.image)?,
            image_id: id(self.image_id)?,
            answers: &answers,
            question_id: id(self.question_id)?.or(of_key),
            question_type: text(self.question_type)?.as_deref(),
            answer_type: text(self.answer_type)?.as_deref(),
            split,
            ..NewRow::default()
        });
        Ok(())
    }
}

impl Entries {
    /// The fields that are read from an entry.
    pub(in crate::questions::import) fn wanted(&self) -> BTreeSet<&'static str> {
        match self {
            Entries::Questions(fields) => {
                let Fields { question, image, answers, question_id, image_id, question_type, answer_type, split } =
                    fields;
                let optional = [*question_id, *image_id, *question_type, *answer_type, split.map(|(name, _)| name)];
                [*question, *image, *answers].into_iter().chain(optional.into_iter().flatten()).collect()
            }
            Entries::Other { wanted, .. } => wanted.iter().copied().collect(),
        }
    }

    /// Adds the questions of an entry.
    pub(in crate::questions::import) fn push(&self, entry: &Entry, rows: &mut Rows) -> Result<(), String> {
        match self {
            Entries::Questions(fields) => fields.push(entry, rows),
            Entries::Other { push, .. } => push(entry, rows),
        }
    }
}

impl Entry<'_> {
    /// A required field, as text.
    pub(in crate::questions::import) fn text(&self, name: &str) -> Result<String, String> {
        text_of(self.fields, name)
    }

    /// A field that may be missing or null, as text.
    pub(in crate::questions::import) fn optional(&self, name: &str) -> Result<Option<String>, String> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.text(name).map(Some),
        }
    }

    /// A field that may be missing, and is otherwise a whole number or its digits.
    pub(in crate::questions::import) fn id(&self, name: &str) -> Result<Option<u64>, String> {
        Ok(self.optional(name)?.as_deref().and_then(whole_number_of))
    }

    /// The answers in a field that may be missing: see [`cell::answers`].
    pub(in crate::questions::import) fn answers(&self, name: &str) -> Result<Vec<String>, String> {
        let Some(value) = self.fields.get(name).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
        // A text is one answer here, brackets or not.
        let answers = match value {
            Value::String(text) => vec![text.into()],
            value => cell::answers(value).map_err(|problem| format!("\"{name}\" has {problem}"))?,
        };
        Ok(answers.into_iter().map(String::from).collect())
    }
}

/// A field of an object as text.
pub(in crate::questions::import) fn text_of(
    object: &serde_json::Map<String, Value>,
    name: &str,
) -> Result<String, String> {
    let value = object.get(name).ok_or_else(|| format!("no \"{name}\" in it"))?;
    let text = cell::text(value).map_err(|problem| format!("\"{name}\" is {problem}"))?;
    Ok(text.into_owned())
}

#[cfg(test)]
pub(in crate::questions::import) mod tests {
    use crate::questions::import::columns::ColumnNames;
    use crate::questions::import::form::read_files;
    use crate::questions::import::rows::Rows;

    /// Reads a file that must have this form, and returns its rows.
    pub(in crate::questions::import) fn read(name: &str, text: &str, form: &str) -> Rows {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let read = read_files(&[path], &ColumnNames::default(), false, directory.path()).unwrap();
        assert_eq!(read.files[0].form, form);
        read.rows
    }

    /// Formats a row: `split picture(id) question(id) answers question_type answer_type`.
    pub(in crate::questions::import) fn row(rows: &Rows, row: usize) -> String {
        let image = rows.image(row);
        let answers: Vec<&str> = rows.given(row).iter().map(|&symbol| rows.answers().get(symbol)).collect();
        let id = |id: Option<u64>| id.map_or("-".to_owned(), |id| id.to_string());
        format!(
            "{} {}({}) {}({}) {} {} {}",
            rows.split(row).name(),
            rows.image_names().get(image),
            id(rows.image_id(image)),
            rows.question(row),
            id(rows.question_id(row)),
            answers.join("|"),
            rows.question_type(row).unwrap_or("-"),
            rows.answer_type(row).unwrap_or("-")
        )
    }
}
