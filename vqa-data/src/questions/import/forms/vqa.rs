//! VQA v1 and v2, OK-VQA, VQA-CP: questions in one file, annotations in another.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::questions::import::json_entries::{EntriesAt, Peek};
use crate::questions::import::rows::{NewRow, Rows};
use crate::questions::import::split_name::SplitName;
use crate::questions::split::{SourceConfig, Split, SplitConfig};

/// Which of the two a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::questions::import) enum Part {
    Questions,
    Annotations,
}

/// A file of such a pair.
pub(in crate::questions::import) struct PartFile {
    pub path: PathBuf,
    pub part: Part,
    pub split: Option<SplitName>,
    pub form: &'static str,
}

/// Recognises a file of such a pair; `None` if it is something else.
pub(in crate::questions::import) fn recognize(path: &Path, peek: &Peek) -> Option<PartFile> {
    let is_number = |key: &str| match peek.first.get(key) {
        Some(Value::Number(id)) => id.is_u64() || id.as_f64().is_some_and(|id| id.fract() == 0.0 && id >= 0.0),
        Some(Value::String(id)) => !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    let is_bare = peek.at == EntriesAt::Top;
    let has_answer = peek.has(&["answers"]) || peek.has(&["answer"]);
    let asks = peek.has(&["question"]);
    let part = match is_number("question_id") {
        true if asks && !has_answer && is_number("image_id") && (is_bare || peek.is_under("questions")) => {
            Part::Questions
        }
        true if !asks && peek.has(&["answers"]) && (is_bare || peek.is_under("annotations")) => Part::Annotations,
        _ => return None,
    };
    let split = SplitName::of_file(path);
    Some(PartFile { path: path.to_owned(), part, split, form: name_of(path, peek) })
}

/// The name of the dataset, as far as the file tells it.
fn name_of(path: &Path, peek: &Peek) -> &'static str {
    let info = |key: &str| peek.beside.get("info").and_then(|info| info.get(key)).and_then(Value::as_str).unwrap_or("");
    let description = info("description").to_lowercase();
    let file = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let has_raw_answers = || {
        let answers = peek.first.get("answers").and_then(Value::as_array);
        answers.and_then(|answers| answers.first()).is_some_and(|first| first.get("raw_answer").is_some())
    };
    match () {
        () if peek.at == EntriesAt::Top && (peek.has(&["coco_split"]) || file.contains("vqacp")) => "VQA-CP",
        () if description.contains("ok-vqa") || has_raw_answers() => "OK-VQA",
        () if description.contains("v2.0") || info("version") == "2.0" || file.starts_with("v2_") => "VQA v2",
        () if description.contains("v1.0") || info("version") == "1.0" => "VQA v1",
        () => "VQA",
    }
}

/// Reads and joins the pairs of all splits. `start` is called before the rows of each, with its first questions file.
///
/// # Errors
///
/// When annotations have no questions, or the files of a split do not belong together.
pub(in crate::questions::import) fn read_parts(
    files: &[PartFile],
    rows: &mut Rows,
    start: &mut dyn FnMut(&Path, &mut Rows, SplitName),
) -> Result<()> {
    for split in SplitName::ALL {
        let of = |part: Part| {
            let of_part =
                files.iter().filter(|file| file.split.unwrap_or(SplitName::Train) == split && file.part == part);
            of_part.map(|file| file.path.clone()).collect::<Vec<_>>()
        };
        let source =
            SourceConfig { q_jsons: of(Part::Questions), a_jsons: of(Part::Annotations), ..SourceConfig::default() };
        let Some(first) = source.q_jsons.first().cloned() else {
            let Some(annotations) = source.a_jsons.first() else { continue };
            let problem =
                format!("annotations without their questions: name the questions file of {} too", split.name());
            return Err(Error::wrong_format(annotations, problem));
        };
        let joined = Split::load(&SplitConfig::from(vec![source]))?;
        start(&first, rows, split);
        for (row, question) in joined.questions.iter().enumerate() {
            let annotation = joined.annotations.get(row);
            let answers: Vec<&str> = annotation.map(|annotation| annotation.answers().collect()).unwrap_or_default();
            let known = |text: &'static str| move |of: &&str| *of != text && !of.is_empty();
            rows.push(NewRow {
                place: row as u64 + 1,
                question: &question.question,
                image: &question.image_id.to_string(),
                image_id: Some(question.image_id),
                answers: &answers,
                first_choice: annotation.map(|annotation| annotation.multiple_choice_answer),
                question_id: Some(question.question_id),
                question_type: annotation.map(|annotation| annotation.question_type).filter(known("unknown")),
                answer_type: annotation.map(|annotation| annotation.answer_type).filter(known("unknown")),
                ..NewRow::default()
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::import::columns::ColumnNames;
    use crate::questions::import::form::{ReadFiles, read_files};
    use crate::questions::import::forms::json_form::tests::row;

    fn read(files: &[(&str, &str)]) -> Result<ReadFiles, String> {
        let directory = tempfile::tempdir().unwrap();
        let write = |(name, text): &(&str, &str)| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths: Vec<PathBuf> = files.iter().map(write).collect();
        read_files(&paths, &ColumnNames::default(), false, directory.path()).map_err(|error| error.to_string())
    }

    const ENTRY: &str = r#"{"question_id": 9000, "image_id": 9, "question_type": "what", "answer_type": "other",
        "multiple_choice_answer": "Blue", "answers": [{"answer": "red", "answer_id": 1},
        {"answer": "Blue", "answer_id": 2}]}"#;
    const QUESTION: &str = r#"{"question_id": 9000, "image_id": 9, "question": "What is it?"}"#;

    #[test]
    fn questions_and_annotations_of_several_splits() {
        let questions = |split: &str, version: &str| {
            format!(
                r#"{{"info": {{"description": "This is {version} of the VQA dataset.", "version": "{}"}},
                "data_subtype": "{split}",
                "questions": [{QUESTION}]}}"#,
                &version[1..]
            )
        };
        let annotations = format!(r#"{{"info": {{"version": "2.0"}}, "annotations": [{ENTRY}]}}"#);
        let (train, val) = (questions("train2014", "v2.0"), questions("val2014", "v2.0"));
        let read_all = read(&[
            ("v2_mscoco_val2014_annotations.json", &annotations),
            ("v2_OpenEnded_mscoco_train2014_questions.json", &train),
            ("v2_OpenEnded_mscoco_val2014_questions.json", &val),
            ("v2_mscoco_train2014_annotations.json", &annotations),
            ("v2_OpenEnded_mscoco_test2015_questions.json", &train.replace("9000", "9001")),
        ])
        .unwrap();
        assert!(read_all.files.iter().all(|file| file.form == "VQA v2"));
        let rows = &read_all.rows;
        assert_eq!(rows.len(), 3);
        assert_eq!(row(rows, 0), "train 9(9) What is it?(9000) red|blue what other");
        assert_eq!(row(rows, 1), "val 9(9) What is it?(9000) red|blue what other");
        assert_eq!(row(rows, 2), "test 9(9) What is it?(9001)  - -");
        assert_eq!(rows.answers().get(rows.first_choice(0).unwrap()), "blue");
        let v1 = read(&[("q.json", &questions("train2014", "v1.0")), ("a.json", &annotations.replace("2.0", "1.0"))])
            .unwrap();
        assert_eq!((v1.files[0].form.as_str(), v1.rows.len()), ("VQA v1", 1));
    }

    #[test]
    fn ok_vqa_has_no_first_choice() {
        let annotations = r#"{"info": {"description": "This is v1.0 of the OK-VQA dataset."}, "annotations": [
            {"image_id": 9, "answer_type": "other", "question_type": "four", "question_id": 9000,
             "confidence": 3, "answers": [
            {"answer_id": 1, "raw_answer": "racing", "answer_confidence": "yes", "answer": "race"},
            {"answer_id": 2, "raw_answer": "motocross", "answer_confidence": "yes", "answer": "motocross"},
            {"answer_id": 3, "raw_answer": "motocross", "answer_confidence": "yes", "answer": "motocross"}]}]}"#;
        let questions = format!(
            r#"{{"info": {{"description": "This is v1.0 of the OK-VQA dataset."}}, "questions": [{QUESTION}]}}"#
        );
        let read = read(&[
            ("OpenEnded_mscoco_train2014_questions.json", &questions),
            ("mscoco_train2014_annotations.json", annotations),
        ])
        .unwrap();
        assert_eq!(read.files.iter().map(|file| &*file.form).collect::<Vec<_>>(), ["OK-VQA"; 2]);
        assert_eq!(row(&read.rows, 0), "train 9(9) What is it?(9000) race|motocross|motocross four other");
        assert_eq!(read.rows.answers().get(read.rows.first_choice(0).unwrap()), "motocross");
    }

    #[test]
    fn vqa_cp_is_bare_lists() {
        let with_split = |entry: &str| format!("[{}, \"coco_split\": \"train2014\"}}]", entry.trim_end_matches('}'));
        let annotations = format!("[{}]", ENTRY.replacen('{', "{\"coco_split\": \"train2014\", ", 1));
        let read = read(&[
            ("vqacp_v2_train_questions.json", &with_split(QUESTION)),
            ("vqacp_v2_train_annotations.json", &annotations),
        ])
        .unwrap();
        assert_eq!(read.files.iter().map(|file| &*file.form).collect::<Vec<_>>(), ["VQA-CP"; 2]);
        assert_eq!(read.rows.len(), 1);
    }

    #[test]
    fn halves_of_a_pair_are_named() {
        let annotations = format!("[{ENTRY}]");
        let problem = read(&[("a_val.json", &annotations)]).map(|_| ()).unwrap_err();
        assert!(problem.contains("a_val.json: annotations without their questions"), "{problem}");
        let problem = read(&[("q.json", &format!("[{QUESTION}]")), ("a.json", &annotations.replace("9000", "9001"))]);
        assert!(problem.map(|_| ()).unwrap_err().contains("do these files belong together?"));
    }
}
