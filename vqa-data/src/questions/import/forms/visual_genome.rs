//! Visual Genome: `question_answers.json` is a list of pictures, each with its questions and their answers.

use serde_json::Value;

use crate::questions::import::forms::json_form::{Entries, JsonForm, text_of};
use crate::questions::import::json_entries::Entry;
use crate::questions::import::rows::{NewRow, Rows};
use crate::questions::whole_number::whole_number_of;

pub(super) const FORM: JsonForm = JsonForm {
    name: "Visual Genome",
    fits: |peek| peek.has(&["qas"]),
    entries: Entries::Other { wanted: &["id", "image_id", "qas"], push },
};

fn push(entry: &Entry, rows: &mut Rows) -> Result<(), String> {
    let of_picture = match entry.optional("id")? {
        Some(id) => Some(id),
        None => entry.optional("image_id")?,
    };
    let Some(Value::Array(pairs)) = entry.fields.get("qas") else { return Err("\"qas\" is not a list".to_owned()) };
    for pair in pairs {
        let Value::Object(pair) = pair else { return Err("\"qas\" contains something other than objects".to_owned()) };
        let image = match &of_picture {
            Some(image) => image.clone(),
            None => text_of(pair, "image_id")?,
        };
        let answer = pair.get("answer").map(|_| text_of(pair, "answer")).transpose()?;
        let question_id = pair.get("qa_id").map(|_| text_of(pair, "qa_id")).transpose()?;
        rows.push(NewRow {
            place: entry.number,
            question: &text_of(pair, "question")?,
            image: &image,
            answers: answer.as_deref().as_slice(),
            question_id: question_id.as_deref().and_then(whole_number_of),
            ..NewRow::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn pictures_with_questions() {
        let text = r#"[{"id": 1, "qas": [
                {"a_objects": [], "question": "What color is the clock?", "image_id": 1, "qa_id": 986769,
                 "answer": "Green."},
                {"a_objects": [], "question": "How tall is it?", "image_id": 1, "qa_id": 986768,
                 "answer": "Very tall.", "q_objects": []}]},
            {"id": 3, "qas": []},
            {"id": 2, "qas": [{"question": "Where?", "image_id": 2, "qa_id": 986774, "answer": "On the shelf."}]}]"#;
        let rows = read("question_answers.json", text, "Visual Genome");
        assert_eq!(rows.len(), 3);
        assert_eq!(row(&rows, 0), "train 1(-) What color is the clock?(986769) green - -");
        assert_eq!(row(&rows, 2), "train 2(-) Where?(986774) on shelf - -");
    }
}
