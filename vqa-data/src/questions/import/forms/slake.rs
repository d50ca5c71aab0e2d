//! SLAKE: `train.json` is a list of questions about medical pictures, in English and Chinese.

use crate::questions::import::forms::json_form::{Entries, Fields, JsonForm};
use crate::questions::import::json_entries::EntriesAt;

pub(super) const FORM: JsonForm = JsonForm {
    name: "SLAKE",
    fits: |peek| peek.at == EntriesAt::Top && peek.has(&["img_name", "question", "q_lang"]),
    entries: Entries::Questions(Fields {
        image: "img_name",
        image_id: Some("img_id"),
        question_id: Some("qid"),
        question_type: Some("content_type"),
        answer_type: Some("answer_type"),
        ..Fields::DEFAULT
    }),
};

#[cfg(test)]
mod tests {
    use crate::questions::import::forms::json_form::tests::{read, row};

    #[test]
    fn pictures_have_a_name_and_an_id() {
        let text = r#"[{"img_id": 1, "img_name": "xmlab1/source.jpg", 
                "question": "What modality is used?", "answer": "MRI",
                "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "OPEN", "base_type": "vqa",
                "content_type": "Modality", "triple": ["vhead", "_", "_"], "qid": 0},
            {"img_id": 102, "img_name": "xmlab102/source.jpg", "question": "图像里有肝脏吗？", "answer": "有",
                "q_lang": "zh",
                "answer_type": "CLOSED", "content_type": "Organ", "qid": 7}]"#;
        let rows = read("validate.json", text, "SLAKE");
        assert_eq!(rows.len(), 2);
        assert_eq!(row(&rows, 0), "val xmlab1/source.jpg(1) What modality is used?(0) mri Modality OPEN");
        assert_eq!(row(&rows, 1), "val xmlab102/source.jpg(102) 图像里有肝脏吗？(7) 有 Organ CLOSED");
    }
}
