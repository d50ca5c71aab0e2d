//! VizWiz: `train.json` is a list of questions with the name of a picture and the answers of ten people.

use crate::questions::import::forms::json_form::{Entries, Fields, JsonForm};
use crate::questions::import::json_entries::EntriesAt;

pub(super) const FORM: JsonForm = JsonForm {
    name: "VizWiz",
    fits: |peek| {
        let says_vizwiz =
            |key| peek.first.get(key).and_then(|name| name.as_str()).is_some_and(|n| n.starts_with("VizWiz"));
        peek.at == EntriesAt::Top
            && peek.has(&["image", "question"])
            && (peek.has(&["answerable"]) || says_vizwiz("image"))
    },
    entries: Entries::Questions(Fields { answers: "answers", answer_type: Some("answer_type"), ..Fields::DEFAULT }),
};

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn questions_with_ten_answers() {
        let text = r#"[
            {"image": "VizWiz_val_00000009.jpg", "question": "What color is it?", "answer_type": "other",
             "answerable": 1,
             "answers": [{"answer_confidence": "yes", "answer": "blue"}, 
                {"answer_confidence": "maybe", "answer": "unsuitable image"}]},
            {"image": "VizWiz_val_00000010.jpg", "question": "Is it on?", "answer_type": "yes/no", "answerable": 0,
             "answers": [{"answer_confidence": "no", "answer": "Yes"}]}]"#;
        let rows = read("val.json", text, "VizWiz");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "val VizWiz_val_00000009.jpg(-) What color is it?(-) blue|unsuitable image - other");
        assert_eq!(row(&rows, 1), "val VizWiz_val_00000010.jpg(-) Is it on?(-) yes - yes/no");
        let test = read("test.json", r#"[{"image": "VizWiz_test_00000000.jpg", "question": "What?"}]"#, "VizWiz");
        assert_eq!(row(&test, 0), "test VizWiz_test_00000000.jpg(-) What?(-)  - -");
    }
}
