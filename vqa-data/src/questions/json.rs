//! VQA2.0's JSON files: questions, annotations, results.
//!
//! Such a file is one list, hundreds of megabytes long. It is memory-mapped and cut wherever something looks like the
//! start of an entry. The pieces are parsed in parallel, with strings borrowed from the map, and with a scanner for
//! entries in VQA2.0's own form. The guess is then checked: each piece must end exactly where the next one begins. If
//! one does not, or if anything else is wrong, the whole file is parsed like any other JSON, so that errors have a
//! line.
//!
//! The list is under a key, as in VQA2.0, or the file is the list, as in VQA-CP.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::path::Path;

use foldhash::fast::FixedState;
use memchr::memmem;
use rayon::prelude::*;
use serde::de::{IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::files::text::open_text;
use crate::message::in_plain_words;
use crate::questions::annotations::{Annotations, NewAnnotation};
use crate::questions::list_kind::{ListKind, another_list, is_bare_list};
use crate::questions::not_json::explain;
use crate::questions::scan::{Scanner, once, skip_space};
use crate::questions::whole_number::{WholeNumber, whole_number};

/// A question, as in `v2_OpenEnded_mscoco_train2014_questions.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a question")]
pub struct Question {
    /// The image that it is about.
    #[serde(deserialize_with = "whole_number")]
    pub image_id: u64,
    /// The text.
    pub question: Box<str>,
    /// Unique within a source.
    #[serde(deserialize_with = "whole_number")]
    pub question_id: u64,
}

/// A model's answer, in the format of VQA2.0's evaluation server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "{\"question_id\": …, \"answer\": …}")]
pub struct Answer {
    /// The question.
    #[serde(deserialize_with = "whole_number")]
    pub question_id: u64,
    /// The text.
    pub answer: Box<str>,
}

/// A string in the file, borrowed unless it has escapes.
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// An entry of an annotations file. Excerpts of VQA2.0 lack the optional fields.
#[derive(Deserialize)]
#[serde(expecting = "an annotation")]
struct AnnotationInFile<'a> {
    #[serde(borrow)]
    question_type: Option<Text<'a>>,
    #[serde(borrow)]
    multiple_choice_answer: Option<Text<'a>>,
    #[serde(borrow)]
    answers: Vec<AnswerInFile<'a>>,
    image_id: Option<WholeNumber>,
    #[serde(borrow)]
    answer_type: Option<Text<'a>>,
    #[serde(deserialize_with = "whole_number")]
    question_id: u64,
}

#[derive(Deserialize)]
#[serde(expecting = "{\"answer\": …}")]
struct AnswerInFile<'a> {
    #[serde(borrow)]
    answer: Text<'a>,
    #[serde(default, deserialize_with = "any_id")]
    answer_id: Option<u64>,
}

/// Reads an id of any form as a number, which serves only for comparison with other ids.
fn any_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let hash = |text: &str| FixedState::default().hash_one(text);
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => None,
        serde_json::Value::Number(id) => Some(id.as_u64().unwrap_or_else(|| hash(&id.to_string()))),
        other => Some(hash(&other.to_string())),
    })
}

/// Whether each of the answers has an id that no other has.
fn have_own_ids(answers: &[AnswerInFile]) -> bool {
    let ids = || answers.iter().map(|answer| answer.answer_id);
    // In ascending order, as in VQA2.0.
    let is_rising = || ids().all(|id| id.is_some()) && ids().is_sorted_by(|a, b| a < b);
    let are_distinct = || {
        let mut seen = HashSet::new();
        ids().all(|id| id.is_some_and(|id| seen.insert(id)))
    };
    is_rising() || are_distinct()
}

impl<'a> Extend<AnnotationInFile<'a>> for Annotations {
    fn extend<I: IntoIterator<Item = AnnotationInFile<'a>>>(&mut self, annotations: I) {
        fn text<'b>(text: &'b Option<Text>) -> Option<&'b str> {
            text.as_ref().map(|text| &*text.0)
        }
        for file in annotations {
            let new = NewAnnotation {
                question_id: file.question_id,
                image_id: file.image_id.map(|WholeNumber(id)| id),
                question_type: text(&file.question_type),
                answer_type: text(&file.answer_type),
                multiple_choice_answer: text(&file.multiple_choice_answer),
            };
            let answers = file.answers.iter().map(|given| &*given.answer.0);
            self.push_noting(new, answers, have_own_ids(&file.answers));
        }
    }
}

/// An entry of a list.
trait Entry<'a>: Deserialize<'a> {
    /// Reads an entry in VQA2.0's form; `None` if its form differs.
    fn scan(scanner: &mut Scanner<'a>) -> Option<Self>;
}

impl<'a> Entry<'a> for Question {
    fn scan(scanner: &mut Scanner<'a>) -> Option<Question> {
        let (mut image_id, mut question, mut question_id) = (None, None, None);
        scanner.object(|value, key| match key {
            "image_id" => once(&mut image_id, value.number()),
            "question" => once(&mut question, value.string()),
            "question_id" => once(&mut question_id, value.number()),
            _ => value.string().map(drop),
        })?;
        Some(Question { image_id: image_id?, question: question?.into(), question_id: question_id? })
    }
}

impl<'a> Entry<'a> for Answer {
    fn scan(scanner: &mut Scanner<'a>) -> Option<Answer> {
        let (mut question_id, mut answer) = (None, None);
        scanner.object(|value, key| match key {
            "question_id" => once(&mut question_id, value.number()),
            "answer" => once(&mut answer, value.string()),
            _ => None,
        })?;
        Some(Answer { question_id: question_id?, answer: answer?.into() })
    }
}

impl<'a> Entry<'a> for AnnotationInFile<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Option<AnnotationInFile<'a>> {
        /// Answers per question in VQA2.0.
        const ANNOTATORS: usize = 10;
        let (mut question_type, mut multiple_choice_answer, mut answer_type) = (None, None, None);
        let (mut image_id, mut question_id, mut answers) = (None, None, None);
        scanner.object(|value, key| match key {
            "question_type" => once(&mut question_type, value.string()),
            "multiple_choice_answer" => once(&mut multiple_choice_answer, value.string()),
            "answer_type" => once(&mut answer_type, value.string()),
            "image_id" => once(&mut image_id, value.number()),
            "question_id" => once(&mut question_id, value.number()),
            "answers" => {
                let mut given = Vec::with_capacity(ANNOTATORS);
                value.list(|item| {
                    given.push(AnswerInFile::scan(item)?);
                    Some(())
                })?;
                once(&mut answers, Some(given))
            }
            _ => value.string().map(drop),
        })?;
        let text = |text: Option<&'a str>| text.map(|text| Text(Cow::Borrowed(text)));
        Some(AnnotationInFile {
            question_type: text(question_type),
            multiple_choice_answer: text(multiple_choice_answer),
            answers: answers?,
            image_id: image_id.map(WholeNumber),
            answer_type: text(answer_type),
            question_id: question_id?,
        })
    }
}

impl<'a> AnswerInFile<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Option<AnswerInFile<'a>> {
        let (mut answer, mut answer_id) = (None, None);
        scanner.object(|value, key| match key {
            "answer" => once(&mut answer, value.string()),
            "answer_id" => once(&mut answer_id, value.number()),
            _ => value.string().map(drop),
        })?;
        Some(AnswerInFile { answer: Text(Cow::Borrowed(answer?)), answer_id })
    }
}

/// The top level of a file. The list that it contains tells its kind.
#[derive(Deserialize)]
#[serde(bound = "Q: Deserialize<'de>, A: Deserialize<'de>")]
struct TopLevel<Q, A> {
    questions: Option<Q>,
    annotations: Option<A>,
}

/// Reads a VQA2.0 questions file, or a bare list of its entries, as in VQA-CP.
///
/// # Errors
///
/// When the file is missing, not JSON (with line and column), or not a questions file.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let text = open_text(path)?;
    let pieces: Vec<Vec<Question>> = read_list(path, &text, ListKind::Questions)?;
    Ok(pieces.into_iter().flatten().collect())
}

/// Reads a VQA2.0 annotations file, or a bare list of its entries, as in VQA-CP.
///
/// # Errors
///
/// When the file is missing, not JSON (with line and column), or not an annotations file.
pub fn read_annotations(path: &Path) -> Result<Annotations> {
    let text = open_text(path)?;
    let pieces: Vec<Annotations> = read_list::<AnnotationInFile, _>(path, &text, ListKind::Annotations)?;
    let mut annotations = Annotations::new();
    pieces.into_iter().for_each(|piece| annotations.append(piece));
    Ok(annotations)
}

/// Reads a results file: a list of `{"question_id": …, "answer": …}`.
///
/// # Errors
///
/// When the file is missing, not JSON (with line and column), or not such a list.
pub fn read_results(path: &Path) -> Result<Vec<Answer>> {
    let text = open_text(path)?;
    let pieces: Vec<Vec<Answer>> = read_list(path, &text, ListKind::Results)?;
    Ok(pieces.into_iter().flatten().collect())
}

/// Reads the list of a file, in parallel pieces if its form allows, otherwise as one.
fn read_list<'a, T, C>(path: &Path, text: &'a [u8], wanted: ListKind) -> Result<Vec<C>>
where
    T: Entry<'a>,
    C: Default + Extend<T> + Send,
{
    let key = wanted.key().filter(|_| !is_bare_list(text));
    if let Some(pieces) = parse_list(text, key, n_pieces()) {
        return Ok(pieces);
    }
    let list: Option<Vec<T>> = match key {
        Some("questions") => from_slice(path, text).map(|file: TopLevel<_, IgnoredAny>| file.questions),
        Some(_) => from_slice(path, text).map(|file: TopLevel<IgnoredAny, _>| file.annotations),
        None => from_slice(path, text).map(Some),
    }
    .or_else(|error| match ListKind::of(text) {
        // The parse error of an entry of another kind would mislead.
        Some(found) if found != wanted => Ok(None),
        _ => Err(with_form(path, wanted, error)),
    })?;
    let mut collection = C::default();
    match list {
        Some(list) => collection.extend(list),
        None => return Err(another_list(path, text, wanted)),
    }
    Ok(vec![collection])
}

/// Adds the expected form to an error in a list of results.
fn with_form(path: &Path, wanted: ListKind, error: Error) -> Error {
    match error {
        Error::Json { source, .. } if wanted == ListKind::Results && !source.is_eof() => {
            let problem = format!(
                "not a results file, which is a list of {{\"question_id\": 1, \"answer\": \"yes\"}}: {}",
                in_plain_words(&source.to_string())
            );
            Error::wrong_format(path, problem).because(source)
        }
        other => other,
    }
}

/// How many pieces a file is cut into: more than there are cores, so that a slow piece does not leave the others idle,
/// but not many more, as each costs a merge.
fn n_pieces() -> usize {
    2 * rayon::current_num_threads()
}

/// Parses the list under a key of the top-level object, or the list that is the top level, in parallel: one
/// collection for each piece, in order. `None` if the file does not have exactly that form, or if anything is wrong.
fn parse_list<'a, T, C>(bytes: &'a [u8], key: Option<&str>, n_pieces: usize) -> Option<Vec<C>>
where
    T: Entry<'a>,
    C: Default + Extend<T> + Send,
{
    let start = match key {
        Some(key) => {
            let key = format!("\"{key}\"");
            let after_key = memmem::find(bytes, key.as_bytes())? + key.len();
            let colon = skip_space(bytes, after_key);
            (bytes.get(colon) == Some(&b':')).then(|| skip_space(bytes, colon + 1))?
        }
        None => skip_space(bytes, 0),
    };
    let first = skip_space(bytes, start + 1);
    if bytes.get(start) != Some(&b'[') || bytes.get(first) != Some(&b'{') {
        return None;
    }
    // An entry looks like the first one up to the end of its first key: `{"question_id"`.
    let key_end = memmem::find_iter(&bytes[first..], b"\"").nth(1)? + first;
    let entry_start = memmem::Finder::new(&bytes[first..=key_end]);
    let mut starts = vec![first];
    for piece in 1..n_pieces {
        let from = first + (bytes.len() - first) / n_pieces * piece;
        match entry_start.find(&bytes[from..]) {
            Some(found) if from + found > starts[starts.len() - 1] => starts.push(from + found),
            _ => {}
        }
    }
    let ends: Vec<Option<usize>> = starts.iter().skip(1).copied().map(Some).chain([None]).collect();
    let pieces: Vec<(C, usize)> = starts
        .par_iter()
        .zip(&ends)
        .map(|(&start, &end)| parse_entries::<T, C>(bytes, start, end))
        .collect::<Option<_>>()?;
    let list_end = pieces.last()?.1;
    // With the entries replaced by a mark, the rest must be an object whose list holds just that mark, or just such a
    // list.
    const MARK: &str = "vqa: the entries stood here";
    let mark = format!("\"{MARK}\"]");
    let rest = [&bytes[..=start], mark.as_bytes(), &bytes[list_end..]].concat();
    let list = match key {
        Some("questions") => serde_json::from_slice::<TopLevel<Vec<String>, IgnoredAny>>(&rest).ok()?.questions?,
        Some(_) => serde_json::from_slice::<TopLevel<IgnoredAny, Vec<String>>>(&rest).ok()?.annotations?,
        None => serde_json::from_slice(&rest).ok()?,
    };
    if list != [MARK] {
        return None;
    }
    Some(pieces.into_iter().map(|(collection, _)| collection).collect())
}

/// Parses entries from `start` on, up to exactly `end`, or to the end of the list. Returns them, and where they ended:
/// in the latter case, after the list's closing bracket.
fn parse_entries<'a, T, C>(bytes: &'a [u8], start: usize, end: Option<usize>) -> Option<(C, usize)>
where
    T: Entry<'a>,
    C: Default + Extend<T>,
{
    let mut collection = C::default();
    let mut at = start;
    // UTF-8 is checked once per piece, not once per string. A piece begins and ends at brackets, never within a
    // character.
    let text = std::str::from_utf8(&bytes[start..end.unwrap_or(bytes.len())]).ok()?;
    loop {
        let mut scanner = Scanner::new(&text[at - start..]);
        let (entry, len) = match T::scan(&mut scanner) {
            Some(entry) => (entry, scanner.offset()),
            None => {
                let mut stream = serde_json::Deserializer::from_str(&text[at - start..]).into_iter::<T>();
                (stream.next()?.ok()?, stream.byte_offset())
            }
        };
        collection.extend([entry]);
        at = skip_space(bytes, at + len);
        match bytes.get(at)? {
            _ if end.is_some_and(|end| at >= end) => return None,
            b',' => at = skip_space(bytes, at + 1),
            b']' if end.is_none() => return Some((collection, at + 1)),
            _ => return None,
        }
        match end {
            Some(end) if at == end => return Some((collection, at)),
            Some(end) if at > end => return None,
            _ => {}
        }
    }
}

/// Reads a JSON text into `T`. Errors name its file.
pub(crate) fn from_slice<'a, T: Deserialize<'a>>(path: &Path, text: &'a [u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|source| explain(path, text, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of<T: std::fmt::Debug>(read: fn(&Path) -> Result<T>, content: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        std::fs::write(&path, content).unwrap();
        read(&path).unwrap_err().to_string()
    }

    /// VQA2.0 excerpts in circulation contain only ids and answers.
    #[test]
    fn annotations_may_be_bare() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let text = r#"{"annotations": [{"question_id": 3, "answers": [
            {"answer": "mesh"}, {"answer": "net", "answer_confidence": "maybe", "answer_id": 2},
            {"answer": "net"}]}]}"#;
        std::fs::write(&path, text).unwrap();
        let annotations = read_annotations(&path).unwrap();
        let annotation = annotations.get(0).unwrap();
        assert_eq!((annotation.multiple_choice_answer, annotation.image_id), ("net", None));
        assert_eq!((annotation.answer_type, annotation.question_type), ("unknown", "unknown"));
        assert_eq!(annotation.counted_answers(), [("net".to_owned(), 2), ("mesh".to_owned(), 1)]);
    }

    /// The official script tells annotators apart by their full entries.
    #[test]
    fn annotators_without_an_id_of_their_own_are_noted() {
        let entry = |ids: &[&str]| {
            let answers: Vec<String> = ids.iter().map(|id| format!(r#"{{"answer": "so"{id}}}"#)).collect();
            format!(r#"{{"question_id": 1, "answers": [{}]}}"#, answers.join(", "))
        };
        let number = |id| format!(r#", "answer_id": {id}"#);
        let (one, two, text) = (&*number("1"), &*number("2"), &*number("\"a\""));
        let own: [&[&str]; 5] = [&[one, two], &[two, one], &[one, text], &[one], &[]];
        let shared: [&[&str]; 5] = [&["", ""], &[one, ""], &[one, one], &[text, one, text], &["", one]];
        for (ids, expected) in own.iter().map(|ids| (ids, 0)).chain(shared.iter().map(|ids| (ids, 1))) {
            let annotations = read(read_annotations, format!("[{}]", entry(ids)).as_bytes());
            assert_eq!(annotations.n_without_answer_ids(), expected, "{ids:?}");
        }
        let all: Vec<String> = own.iter().chain(&shared).map(|ids| entry(ids)).collect();
        assert_eq!(read(read_annotations, format!("[{}]", all.join(",")).as_bytes()).n_without_answer_ids(), 5);
    }

    const QUESTION: &str = r#"{"image_id": 1, "question": "why?", "question_id": 2}"#;
    const ANNOTATION: &str = r#"{"image_id": 1, "question_id": 2, "answers": [{"answer": "so"}]}"#;
    const RESULT: &str = r#"{"question_id": 2, "answer": "so"}"#;

    fn read<T>(read: fn(&Path) -> Result<T>, content: &[u8]) -> T {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        std::fs::write(&path, content).unwrap();
        read(&path).unwrap_or_else(|error| panic!("{error}"))
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, text).unwrap();
        encoder.finish().unwrap()
    }

    /// Files of each kind, with a key and as bare lists: plain, with a byte order mark, and compressed.
    #[test]
    fn forms_of_a_file() {
        fn check<T>(read_file: fn(&Path) -> Result<T>, len: fn(&T) -> usize, forms: &[String]) {
            for form in forms {
                for text in [form.clone(), format!("\u{feff}{form}"), format!(" \n{form}\n")] {
                    assert_eq!(len(&read(read_file, text.as_bytes())), 2, "{text}");
                    assert_eq!(len(&read(read_file, &gzip(text.as_bytes()))), 2, "{text}");
                }
            }
        }
        let forms = |key: &str, entry: &str| {
            [format!("{{\"info\": {{}}, \"{key}\": [{entry}, {entry}]}}"), format!("[{entry},\n{entry}]")]
        };
        check(read_questions, Vec::len, &forms("questions", QUESTION));
        check(read_annotations, Annotations::len, &forms("annotations", ANNOTATION));
        check(read_results, Vec::len, &forms("", RESULT)[1..]);
    }

    /// VQA-CP's entries have one more key than VQA2.0's.
    #[test]
    fn a_bare_list_is_parsed_in_pieces() {
        let entry =
            |i: u64| serde_json::json!({"image_id": i, "question": "why?", "question_id": i * 10, "coco_split": "x"});
        let json = serde_json::to_vec(&(0..50).map(entry).collect::<Vec<_>>()).unwrap();
        let pieces = parse_list::<Question, Vec<Question>>(&json, None, 8).unwrap();
        assert_eq!(pieces.len(), 8);
        let ids = pieces.concat().iter().map(|question| question.question_id).collect::<Vec<_>>();
        assert_eq!(ids, (0..50).map(|i| i * 10).collect::<Vec<_>>());
    }

    /// pandas writes a column of ids with a gap in it as floats, and one that was read as text as strings.
    #[test]
    fn ids_are_whole_numbers_in_any_form() {
        for id in ["9", "9.0", "\"9\"", "\"000000000009\""] {
            let question = format!(r#"{{"image_id": {id}, "question": "why?", "question_id": {id}}}"#);
            let questions = read(read_questions, format!("{{\"questions\": [{question}]}}").as_bytes());
            assert_eq!((questions[0].image_id, questions[0].question_id), (9, 9), "{id}");
            let annotation = format!(r#"[{{"image_id": {id}, "question_id": {id}, "answers": []}}]"#);
            let annotations = read(read_annotations, annotation.as_bytes());
            let first = annotations.get(0).unwrap();
            assert_eq!((first.image_id, first.question_id), (Some(9), 9), "{id}");
            let results = read(read_results, format!(r#"[{{"question_id": {id}, "answer": "so"}}]"#).as_bytes());
            assert_eq!(results[0].question_id, 9, "{id}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(error_of(read_questions, r#"{"annotations": []}"#).contains("swapped"));
        assert!(error_of(read_annotations, r#"{"questions": []}"#).contains("swapped"));
        assert!(error_of(read_questions, r#"{"info": {}}"#).contains("no list \"questions\""));
        assert!(error_of(read_questions, "{\"questions\": [\n{\"image_id\": 1, \"quest").contains("line 2 column 22"));
        let missing = error_of(read_questions, "{\"questions\": [\n{\"image_id\": 1, \"question_id\": 1}]}");
        assert!(missing.contains("missing field `question`") && missing.contains("line 2"), "{missing}");
        let text = error_of(read_questions, "{\"questions\": [\n{\"image_id\": \"x1\"}]}");
        assert!(text.contains("invalid value: string \"x1\", expected a whole number at line 2 column 17"), "{text}");
        let text = error_of(read_annotations, "{\"annotations\": [{\"question_id\": 1, \"answers\": [\"yes\"]}]}");
        assert!(text.contains("string \"yes\", expected {\"answer\": …} at line 1"), "{text}");
        assert!(error_of(read_questions, " [{}]").contains("missing field `image_id`"));
        assert!(error_of(read_results, "{}").contains("invalid type: map, expected a list"));
        assert!(error_of(read_results, "").contains("ends in the middle"));
        assert!(error_of(read_results, "[{\"question_id\": 1, \"answer\": \"x\"}] x").contains("trailing characters"));
        assert!(read_questions(Path::new("/nowhere.json")).unwrap_err().to_string().contains("no such file"));
        assert!(read_questions(Path::new("/")).unwrap_err().to_string().contains("not a file"));
    }

    /// Lists under a key and bare ones, each read as each other kind.
    #[test]
    fn swapped_files_are_named() {
        type Read = fn(&Path) -> Result<()>;
        let files: [(&str, Read, [String; 2]); 3] = [
            (
                "a questions file",
                |path| read_questions(path).map(drop),
                [format!("{{\"questions\": [{QUESTION}]}}"), format!("[{QUESTION}]")],
            ),
            (
                "an annotations file",
                |path| read_annotations(path).map(drop),
                [format!("{{\"annotations\": [{ANNOTATION}]}}"), format!("[{ANNOTATION}]")],
            ),
            ("a results file", |path| read_results(path).map(drop), [format!("[{RESULT}]"), format!(" [ {RESULT}]")]),
        ];
        for (wanted, read, _) in &files {
            for (found, _, texts) in files.iter().filter(|(found, ..)| found != wanted) {
                for text in texts {
                    let error = error_of(*read, text);
                    assert!(error.contains(&format!("{found} where {wanted} was expected")), "{text}: {error}");
                }
            }
        }
    }

    /// What people save, and Python writes, instead of JSON.
    #[test]
    fn what_is_no_json_is_named() {
        let error = |content: &[u8]| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("q.json");
            std::fs::write(&path, content).unwrap();
            read_questions(&path).unwrap_err().to_string()
        };
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n";
        let latin_1 = b"[{\"image_id\": 1,\n\"question\": \"caf\xe9?\", \"question_id\": 2}]";
        let with =
            |value: &str| format!("{{\"questions\": [\n{{\"image_id\": 1, \"question\": {value}}}]}}").into_bytes();
        let cases: [(Vec<u8>, &[&str]); 14] = [
            (b"PK\x03\x04".to_vec(), &["a zip archive, not JSON: unpack it"]),
            (b"\xfd7zXZ\0".to_vec(), &["compressed with xz, not JSON: unpack it"]),
            (gzip(b"PK\x03\x04"), &["a zip archive"]),
            (b"\xff\xfe{\0".to_vec(), &["UTF-16 text", "save it as UTF-8"]),
            (b"\x80\x02]q\0.".to_vec(), &["a Python pickle", "json.dump"]),
            (pointer.to_vec(), &["a Git LFS pointer", "git lfs pull"]),
            (b"<!DOCTYPE html><html></html>".to_vec(), &["a web page", "download the file again"]),
            (latin_1.to_vec(), &["line 2: the byte 0xe9 is not UTF-8", "iconv -f latin1 -t utf-8"]),
            (format!("{QUESTION}\n{QUESTION}\n").into_bytes(), &["JSON Lines", "jq -s ."]),
            (with("NaN"), &["line 2 column 29: NaN, which Python writes", "keep_default_na=False"]),
            (with("-Infinity"), &["line 2 column 3", ": -Infinity, which Python writes"]),
            (with("Infinity"), &["line 2 column 29: Infinity, which"]),
            (with(r#""what \ud83d?""#), &["line 2", r"\ud83d is half of a character"]),
            (with(r#""what \ude00 is \ud83d\ude00?""#), &["line 2", r"\ude00 is half of a character"]),
        ];
        for (content, words) in cases {
            let error = error(&content);
            for word in words.iter().chain(&["q.json: "]) {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
        // The other half is there, and something else is wrong.
        for text in [with("\"\\ud83d\\ude00\" x"), with("[\"NaN\" x]"), with("nan")] {
            let error = error(&text);
            assert!(error.contains("expected") && error.contains("line 2 column"), "{error}");
        }
    }

    /// Text that looks like the start of an entry, and other traps.
    const TRAPS: [&str; 6] =
        [r#"}, {"image_id": 5, "question"#, r#"{"image_id""#, "]}", r#"\" \\ é \u0000"#, "", r#"["questions": ["#];

    fn trap() -> impl Strategy<Value = String> {
        (0..TRAPS.len(), "[ a-c{}\\[\\],:\"\\\\]{0,8}").prop_map(|(i, noise)| format!("{}{noise}", TRAPS[i]))
    }

    proptest! {
        /// However a file is cut, and whatever is in its strings: parallel parsing gives what plain parsing gives.
        #[test]
        fn cutting_changes_nothing(
            texts in prop::collection::vec(trap(), 1..40), n_pieces in 1usize..30, pretty in any::<bool>()
        ) {
            let list: Vec<Question> = texts
                .iter()
                .enumerate()
                .map(|(i, text)| Question { image_id: i as u64, question: text.as_str().into(), question_id: 7 })
                .collect();
            let file = serde_json::json!({"info": {"x": texts}, "questions": list, "z": [1]});
            let json = if pretty { serde_json::to_vec_pretty(&file) } else { serde_json::to_vec(&file) }.unwrap();
            if let Some(pieces) = parse_list::<Question, Vec<Question>>(&json, Some("questions"), n_pieces) {
                prop_assert_eq!(pieces.concat(), list);
            }
        }

        /// Whatever byte of a file is changed: plain parsing accepts all that parallel parsing accepts, with the same
        /// result.
        #[test]
        fn damage_is_not_accepted(at in 0usize..400, byte in any::<u8>(), n_pieces in 1usize..9) {
            let list: Vec<Question> = (0..9)
                .map(|i| Question { image_id: i, question: "why?".into(), question_id: i * 10 })
                .collect();
            let mut json = serde_json::to_vec(&serde_json::json!({"info": {}, "questions": list})).unwrap();
            let at = at % json.len();
            json[at] = byte;
            if let Some(pieces) = parse_list::<Question, Vec<Question>>(&json, Some("questions"), n_pieces) {
                let plain: TopLevel<Vec<Question>, IgnoredAny> = serde_json::from_slice(&json).unwrap();
                prop_assert_eq!(pieces.concat(), plain.questions.unwrap());
            }
        }
    }

    proptest! {
        /// Whatever byte of a file is changed: the pieces, whose entries are scanned, give the same annotations as
        /// serde.
        #[test]
        fn scanning_changes_nothing(
            answers in prop::collection::vec("[a-z \"\\\\é]{0,6}", 1..12), at in 0usize..2000,
            byte in prop::option::of(any::<u8>())
        ) {
            let answers: Vec<_> = answers.iter().zip(1..).map(|(answer, i)| {
                serde_json::json!({"answer": answer, "answer_confidence": "yes", "answer_id": i})
            }).collect();
            let annotation = |i: u64| serde_json::json!({
                "question_type": "what", "multiple_choice_answer": answers[0]["answer"], "answers": answers,
                "image_id": i, "answer_type": "other", "question_id": i * 10
            });
            let list: Vec<_> = (0..4).map(annotation).collect();
            let mut json = serde_json::to_vec(&serde_json::json!({"annotations": list})).unwrap();
            let at = at % json.len();
            json[at] = byte.unwrap_or(json[at]);
            if let Some(pieces) = parse_list::<AnnotationInFile, Annotations>(&json, Some("annotations"), 2) {
                let file: TopLevel<IgnoredAny, Vec<AnnotationInFile>> = serde_json::from_slice(&json).unwrap();
                let mut plain = Annotations::new();
                plain.extend(file.annotations.unwrap());
                let mut ours = Annotations::new();
                pieces.into_iter().for_each(|piece| ours.append(piece));
                let text = |annotations: &Annotations| format!("{:?}", annotations.iter().collect::<Vec<_>>());
                prop_assert_eq!(text(&ours), text(&plain));
            } else {
                prop_assert!(byte.is_some(), "a sound file is parsed in pieces");
            }
        }
    }

    #[test]
    fn ordinary_files_are_parsed_in_pieces() {
        let list: Vec<Question> =
            (0..100).map(|i| Question { image_id: i, question: "why?".into(), question_id: i * 10 }).collect();
        let json = serde_json::to_vec(&serde_json::json!({"info": {}, "questions": list, "license": {}})).unwrap();
        let pieces = parse_list::<Question, Vec<Question>>(&json, Some("questions"), 8).unwrap();
        assert_eq!(pieces.len(), 8);
        assert_eq!(pieces.concat(), list);
    }
}
