//! CLEVR: `CLEVR_train_questions.json` has questions with the file name of a picture, and one answer.

use crate::questions::import::forms::json_form::{Entries, Fields, JsonForm};
use crate::questions::import::split_name::SplitName;

pub(super) const FORM: JsonForm = JsonForm {
    name: "CLEVR",
    fits: |peek| peek.is_under("questions") && peek.has(&["image_filename", "question"]),
    entries: Entries::Questions(Fields {
        image: "image_filename",
        question_id: Some("question_index"),
        split: Some(("split", SplitName::of_name)),
        ..Fields::DEFAULT
    }),
};

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
