//! VQA-RAD: `VQA_RAD Dataset Public.json` is a list of questions about radiological pictures. The test part is marked
//! by its `phrase_type`.

use crate::questions::import::forms::json_form::{Entries, Fields, JsonForm};
use crate::questions::import::json_entries::EntriesAt;
use crate::questions::import::split_name::SplitName;

pub(super) const FORM: JsonForm = JsonForm {
    name: "VQA-RAD",
    fits: |peek| peek.at == EntriesAt::Top && peek.has(&["image_name", "question", "answer_type", "phrase_type"]),
    entries: Entries::Questions(Fields {
        image: "image_name",
        question_id: Some("qid"),
        question_type: Some("question_type"),
        answer_type: Some("answer_type"),
        // The test part has answers, so it can be validated on.
        split: Some(("phrase_type", |phrase| phrase.starts_with("test").then_some(SplitName::Val))),
        ..Fields::DEFAULT
    }),
};

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn the_test_part_is_for_validation() {
        let text = r#"[{"qid": "0", "phrase_type": "freeform", "qid_linked_id": "03f451ca", 
                "image_name": "synpic54610.jpg",
                "image_organ": "HEAD", "question": "Are regions of the brain infarcted?", "question_rephrase": "NULL",
                "question_type": "PRES", "answer": "Yes", "answer_type": "CLOSED "},
            {"qid": "2", "phrase_type": "test_freeform", "image_name": "synpic29265.jpg", "question": "How many?",
                "question_type": "COUNT", "answer": 4, "answer_type": "OPEN"}]"#;
        let rows = read("VQA_RAD Dataset Public.json", text, "VQA-RAD");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "train synpic54610.jpg(-) Are regions of the brain infarcted?(0) yes PRES CLOSED");
        assert_eq!(row(&rows, 1), "val synpic29265.jpg(-) How many?(2) 4 COUNT OPEN");
    }
}
