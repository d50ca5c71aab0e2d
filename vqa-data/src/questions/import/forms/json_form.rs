//! What the forms of JSON files have in common.

use serde_json::Value;

use crate::questions::import::cell;
use crate::questions::import::json_entries::{Entry, Peek};
use crate::questions::import::rows::Rows;
use crate::questions::whole_number::whole_number_of;

/// A dataset's own form.
pub(in crate::questions::import) struct JsonForm {
    /// The dataset's name.
    pub name: &'static str,
    /// Whether a file that begins so has it.
    pub fits: fn(&Peek) -> bool,
    /// The fields that are read of an entry.
    pub wanted: &'static [&'static str],
    /// Adds the questions of an entry.
    pub push: fn(&Entry, &mut Rows) -> Result<(), String>,
}

impl Entry<'_> {
    /// A field that must be there, as text.
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

/// Borrows texts.
pub(in crate::questions::import) fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
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

    /// A row in words: `split picture(id) question(id) answers question_type answer_type`.
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
