//! GQA: `train_balanced_questions.json` has questions by their ids, each with one answer.

use crate::questions::import::forms::json_form::{Entries, Fields, JsonForm};
use crate::questions::import::json_entries::EntriesAt;

pub(super) const FORM: JsonForm = JsonForm {
    name: "GQA",
    fits: |peek| peek.at == EntriesAt::Values && peek.has(&["imageId", "question"]),
    entries: Entries::Questions(Fields { image: "imageId", ..Fields::DEFAULT }),
};

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn questions_by_their_ids() {
        let text = r#"{"02930152": {"semantic": [{"operation": "select"}], "entailed": ["02930160"],
                "imageId": "2354786",
                "isBalanced": true, "groups": {"global": null}, "answer": "yes", "types": {"detailed": "verify"},
                "question": "Is the sky dark?", "fullAnswer": "Yes, the sky is dark."},
            "201307251": {"imageId": "n161313", "question": "What is this?", "answer": "pants"}}"#;
        let rows = read("testdev_balanced_questions.json", text, "GQA");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "test 2354786(-) Is the sky dark?(2930152) yes - -");
        assert_eq!(row(&rows, 1), "test n161313(-) What is this?(201307251) pants - -");
    }
}
