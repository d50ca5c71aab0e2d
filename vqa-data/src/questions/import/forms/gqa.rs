//! GQA: `train_balanced_questions.json` has questions by their ids, each with one answer.

use crate::questions::import::forms::json_form::{JsonForm, borrowed};
use crate::questions::import::json_entries::{EntriesAt, Entry};
use crate::questions::import::rows::{NewRow, Rows};
use crate::questions::whole_number::whole_number_of;

pub(super) const FORM: JsonForm = JsonForm {
    name: "GQA",
    fits: |peek| peek.at == EntriesAt::Values && peek.has(&["imageId", "question"]),
    wanted: &["imageId", "question", "answer"],
    push,
};

fn push(entry: &Entry, rows: &mut Rows) -> Result<(), String> {
    let answers = entry.answers("answer")?;
    rows.push(NewRow {
        place: entry.number,
        question: &entry.text("question")?,
        image: &entry.text("imageId")?,
        answers: &borrowed(&answers),
        question_id: entry.key.and_then(whole_number_of),
        ..NewRow::default()
    });
    Ok(())
}

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
