//! TextVQA: `TextVQA_0.5.1_train.json` has questions under `data`, with ten answers as plain texts.

use crate::questions::import::forms::json_form::{Entries, Fields, JsonForm};
use crate::questions::import::split_name::SplitName;

pub(super) const FORM: JsonForm = JsonForm {
    name: "TextVQA",
    fits: |peek| {
        let says_textvqa = peek.beside.get("dataset_name").is_some_and(|name| name == "textvqa");
        peek.is_under("data") && peek.has(&["question", "image_id"]) && (says_textvqa || peek.has(&["question_tokens"]))
    },
    entries: Entries::Questions(Fields {
        image: "image_id",
        answers: "answers",
        question_id: Some("question_id"),
        split: Some(("set_name", SplitName::of_name)),
        ..Fields::DEFAULT
    }),
};

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn questions_below_data() {
        let text = r#"{"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [
            {"question": "what is the brand?", "image_id": "0054c91397f2fe05", "image_classes": ["Camera"],
             "question_id": 0,
             "question_tokens": ["what"], "answers": ["nous les gosses", "dakota"], "set_name": "val"},
            {"question": "who?", "image_id": "003a8ae2ef43b901", "question_id": 1, "question_tokens": ["who"],
             "answers": [],
             "set_name": "test"}]}"#;
        let rows = read("x.json", text, "TextVQA");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "val 0054c91397f2fe05(-) what is the brand?(0) nous les gosses|dakota - -");
        assert_eq!(row(&rows, 1), "test 003a8ae2ef43b901(-) who?(1)  - -");
    }
}
