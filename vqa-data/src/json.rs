//! VQA2.0's JSON files: questions, annotations, results.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A question, as in `v2_OpenEnded_mscoco_train2014_questions.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The picture that it is about.
    pub image_id: u64,
    /// The text.
    pub question: String,
    /// Unique within a source.
    pub question_id: u64,
}

/// What ten people answered to a question, as in `v2_mscoco_train2014_annotations.json`.
///
/// A file needs the question's id and the annotators' answers. Excerpts of VQA2.0 go without the rest, which is then
/// filled in as said at each field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AnnotationInFile")]
pub struct Annotation {
    /// The first words of the question, from a fixed list: "what color is the" … Otherwise "unknown".
    pub question_type: String,
    /// The answer that stands for all. Otherwise the annotators' most frequent one.
    pub multiple_choice_answer: String,
    /// The annotators' answers.
    pub answers: Vec<AnnotatorAnswer>,
    /// The picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<u64>,
    /// "yes/no", "number" or "other". Otherwise "unknown".
    pub answer_type: String,
    /// The question.
    pub question_id: u64,
}

#[derive(Deserialize)]
#[serde(rename = "annotation")]
struct AnnotationInFile {
    question_type: Option<String>,
    multiple_choice_answer: Option<String>,
    answers: Vec<AnnotatorAnswer>,
    image_id: Option<u64>,
    answer_type: Option<String>,
    question_id: u64,
}

impl From<AnnotationInFile> for Annotation {
    fn from(file: AnnotationInFile) -> Annotation {
        let unknown = || "unknown".to_owned();
        let mut annotation = Annotation {
            question_type: file.question_type.unwrap_or_else(unknown),
            multiple_choice_answer: file.multiple_choice_answer.unwrap_or_default(),
            answers: file.answers,
            image_id: file.image_id,
            answer_type: file.answer_type.unwrap_or_else(unknown),
            question_id: file.question_id,
        };
        if annotation.multiple_choice_answer.is_empty()
            && let Some((most, _)) = annotation.counted_answers().into_iter().next()
        {
            annotation.multiple_choice_answer = most;
        }
        annotation
    }
}

/// What one annotator answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotatorAnswer {
    /// The text.
    pub answer: String,
    /// "yes", "maybe" or "no".
    #[serde(default)]
    pub answer_confidence: String,
    /// 1 to 10.
    #[serde(default)]
    pub answer_id: u32,
}

impl Annotation {
    /// The annotators' answers with how many gave each, most frequent first, then in order of appearance.
    pub fn counted_answers(&self) -> Vec<(String, usize)> {
        let mut counted: Vec<(String, usize)> = Vec::new();
        for given in &self.answers {
            match counted.iter_mut().find(|(answer, _)| *answer == given.answer) {
                Some((_, n)) => *n += 1,
                None => counted.push((given.answer.clone(), 1)),
            }
        }
        counted.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        counted
    }
}

impl AsRef<str> for AnnotatorAnswer {
    fn as_ref(&self) -> &str {
        &self.answer
    }
}

/// A model's answer, in the format of VQA2.0's evaluation server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question.
    pub question_id: u64,
    /// The text.
    pub answer: String,
}

/// The top level of a questions file or an annotations file: which of the two it is shows in the list it has.
#[derive(Deserialize)]
struct QuestionsFile {
    questions: Option<Vec<Question>>,
    annotations: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct AnnotationsFile {
    questions: Option<IgnoredAny>,
    annotations: Option<Vec<Annotation>>,
}

/// Reads a VQA2.0 questions file.
///
/// # Errors
///
/// When the file is missing, no JSON (with line and column), or not a questions file.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let file: QuestionsFile = read_json(path)?;
    match (file.questions, file.annotations) {
        (Some(questions), _) => Ok(questions),
        (None, Some(_)) => Err(Error::file(
            path,
            "an annotations file where a questions file is wanted: were the two swapped? Questions belong in q_jsons, annotations in a_jsons",
        )),
        (None, None) => Err(Error::file(path, "no list \"questions\" in it: not a VQA2.0 questions file")),
    }
}

/// Reads a VQA2.0 annotations file.
///
/// # Errors
///
/// When the file is missing, no JSON (with line and column), or not an annotations file.
pub fn read_annotations(path: &Path) -> Result<Vec<Annotation>> {
    let file: AnnotationsFile = read_json(path)?;
    match (file.annotations, file.questions) {
        (Some(annotations), _) => Ok(annotations),
        (None, Some(_)) => Err(Error::file(
            path,
            "a questions file where an annotations file is wanted: were the two swapped? Questions belong in q_jsons, annotations in a_jsons",
        )),
        (None, None) => Err(Error::file(path, "no list \"annotations\" in it: not a VQA2.0 annotations file")),
    }
}

/// Reads a results file: a list of `{"question_id": …, "answer": …}`.
///
/// # Errors
///
/// When the file is missing, no JSON (with line and column), or not such a list.
pub fn read_results(path: &Path) -> Result<Vec<Answer>> {
    read_json(path)
}

/// Reads a JSON file into `T`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = map_file(path)?;
    serde_json::from_slice(&bytes).map_err(|cause| Error::Json { path: path.to_owned(), cause })
}

/// Maps a whole file into memory, read-only.
///
/// # Errors
///
/// When the file is missing or not a regular file.
#[allow(unsafe_code)]
pub fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    if !file.metadata().map_err(Error::io("read", path))?.is_file() {
        return Err(Error::file(path, "not a file"));
    }
    // SAFETY: the map is undefined behaviour if another process changes the file, or cuts it short, while
    // it is mapped. Nothing can rule that out; like every program that maps its input, this one asks for it
    // in the documentation, and its own writers never touch a file in place (see `atomic`).
    let map = unsafe { Mmap::map(&file) };
    map.map_err(Error::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of<T: std::fmt::Debug>(read: fn(&Path) -> Result<T>, content: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        std::fs::write(&path, content).unwrap();
        read(&path).unwrap_err().to_string()
    }

    /// VQA2.0 excerpts in circulation have nothing but ids and answers.
    #[test]
    fn annotations_may_be_bare() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let text = r#"{"annotations": [{"question_id": 3, "answers": [
            {"answer": "mesh"}, {"answer": "net", "answer_confidence": "maybe", "answer_id": 2}, {"answer": "net"}]}]}"#;
        std::fs::write(&path, text).unwrap();
        let annotation = &read_annotations(&path).unwrap()[0];
        assert_eq!((annotation.multiple_choice_answer.as_str(), annotation.image_id), ("net", None));
        assert_eq!((annotation.answer_type.as_str(), annotation.question_type.as_str()), ("unknown", "unknown"));
        assert_eq!(annotation.counted_answers(), [("net".to_owned(), 2), ("mesh".to_owned(), 1)]);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(error_of(read_questions, r#"{"annotations": []}"#).contains("swapped"));
        assert!(error_of(read_annotations, r#"{"questions": []}"#).contains("swapped"));
        assert!(error_of(read_questions, r#"{"info": {}}"#).contains("no list \"questions\""));
        assert!(error_of(read_questions, "{\"questions\": [\n{\"image_id\": 1, \"quest").contains("line 2 column 22"));
        let missing = error_of(read_questions, "{\"questions\": [\n{\"image_id\": 1, \"question_id\": 1}]}");
        assert!(missing.contains("missing field `question`") && missing.contains("line 2"), "{missing}");
        assert!(error_of(read_results, "{}").contains("invalid type: map"));
        assert!(error_of(read_results, "").contains("ends in the middle"));
        assert!(read_questions(Path::new("/nowhere.json")).unwrap_err().to_string().contains("no such file"));
        assert!(read_questions(Path::new("/")).unwrap_err().to_string().contains("not a file"));
    }
}
