//! CLEVR: `CLEVR_train_questions.json` has questions with the file name of a picture, and one answer.

use crate::questions::import::forms::json_form::{JsonForm, borrowed};
use crate::questions::import::json_entries::Entry;
use crate::questions::import::rows::{NewRow, Rows};
use crate::questions::import::split_name::SplitName;

pub(super) const FORM: JsonForm = JsonForm {
    name: "CLEVR",
    fits: |peek| peek.is_under("questions") && peek.has(&["image_filename", "question"]),
    wanted: &["image_filename", "question", "question_index", "answer", "split"],
    push,
};

fn push(entry: &Entry, rows: &mut Rows) -> Result<(), String> {
    let answers = entry.answers("answer")?;
    rows.push(NewRow {
        place: entry.number,
        question: &entry.text("question")?,
        image: &entry.text("image_filename")?,
        answers: &borrowed(&answers),
        question_id: entry.id("question_index")?,
        split: entry.optional("split")?.as_deref().and_then(SplitName::of_word),
        ..NewRow::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn questions_with_file_names() {
        let text = r#"{"info": {"split": "val", "version": "1.0"}, "questions": [
            {"image_index": 0, "program": [{"inputs": [], "function": "scene"}], "question_index": 0,
             "image_filename": "CLEVR_val_000000.png", "question_family_index": 12, "split": "val", "answer": "no",
             "question": "Are there any blocks?"},
            {"image_index": 0, "question_index": 1, "image_filename": "CLEVR_val_000000.png", "split": "val",
             "answer": 2,
             "question": "How many?"}]}"#;
        let rows = read("q.json", text, "CLEVR");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "val CLEVR_val_000000.png(-) Are there any blocks?(0) no - -");
        assert_eq!(row(&rows, 1), "val CLEVR_val_000000.png(-) How many?(1) 2 - -");
    }
}
