//! SLAKE: `train.json` is a list of questions about medical pictures, in English and Chinese.

use crate::questions::import::forms::json_form::{JsonForm, borrowed};
use crate::questions::import::json_entries::{EntriesAt, Entry};
use crate::questions::import::rows::{NewRow, Rows};

pub(super) const FORM: JsonForm = JsonForm {
    name: "SLAKE",
    fits: |peek| peek.at == EntriesAt::Top && peek.has(&["img_name", "question", "q_lang"]),
    wanted: &["qid", "img_id", "img_name", "question", "answer", "answer_type", "content_type"],
    push,
};

fn push(entry: &Entry, rows: &mut Rows) -> Result<(), String> {
    let answers = entry.answers("answer")?;
    rows.push(NewRow {
        place: entry.number,
        question: &entry.text("question")?,
        image: &entry.text("img_name")?,
        image_id: entry.id("img_id")?,
        answers: &borrowed(&answers),
        question_id: entry.id("qid")?,
        question_type: entry.optional("content_type")?.as_deref(),
        answer_type: entry.optional("answer_type")?.as_deref(),
        ..NewRow::default()
    });
    Ok(())
}

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
