//! Streaming the entries of JSON files, wherever the list of entries is.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::text::open_text;
use crate::questions::import::reader::{beginning, open_reader};
use crate::questions::not_json::explain;

/// Where the entries are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntriesAt {
    /// The file is a list of them.
    Top,
    /// In the list under this key.
    Key(String),
    /// They are the values of an object, whose keys are their ids.
    Values,
    /// One on each line.
    Lines,
}

/// What the beginning of a JSON file shows.
#[derive(Debug, Clone)]
pub(super) struct Peek {
    pub at: EntriesAt,
    /// The first entry.
    pub first: Map<String, Value>,
    /// The values beside the list, if they come before it.
    pub beside: Map<String, Value>,
}

impl Peek {
    /// Whether the first entry has all of these keys.
    pub(super) fn has(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.first.contains_key(*key))
    }

    pub(super) fn is_under(&self, key: &str) -> bool {
        matches!(&self.at, EntriesAt::Key(at) if at == key)
    }
}

/// An entry, with only the fields that were requested.
pub(super) struct Entry<'a> {
    /// Counted from 1.
    pub number: u64,
    /// Its id, if entries are the values of an object.
    pub key: Option<&'a str>,
    pub fields: &'a Map<String, Value>,
}

/// Finds the first list of entries in a file; `None` if there is nothing like one. The keys in `own` mark an entry, as
/// well-known ones do.
///
/// # Errors
///
/// When the file cannot be read, or the part that is read is not JSON.
pub(super) fn peek(path: &Path, own: &[&str]) -> Result<Option<Peek>> {
    let start = beginning(path)?;
    if let Some(first) = first_of_lines(&start, own) {
        return Ok(Some(Peek { at: EntriesAt::Lines, first, beside: Map::new() }));
    }
    let found = look(path, own, None)?;
    Ok(found.first.map(|(at, first)| Peek { at, first, beside: found.beside }))
}

/// Finds another list of entries in a file, beside the one under `key`, and returns its key.
///
/// # Errors
///
/// When the file cannot be read, or the part that is read is not JSON.
pub(super) fn another_list(path: &Path, key: &str) -> Result<Option<String>> {
    match look(path, &[], Some(key))?.first {
        Some((EntriesAt::Key(other), _)) => Ok(Some(other)),
        _ => Ok(None),
    }
}

/// Looks for the first entry in a file; with a key in `except`, only in other lists than the one under it.
fn look(path: &Path, own: &[&str], except: Option<&str>) -> Result<Peeked> {
    let found = RefCell::new(Peeked::default());
    let mut json = serde_json::Deserializer::from_reader(open_reader(path)?);
    let result = json.deserialize_any(PeekVisitor { found: &found, own, except });
    let found = found.into_inner();
    match (&found.first, result) {
        (None, Err(error)) => Err(explain_error(path, error)),
        _ => Ok(found),
    }
}

/// The first entry of a file of JSON lines.
fn first_of_lines(start: &[u8], own: &[&str]) -> Option<Map<String, Value>> {
    let text = start.trim_ascii_start();
    let line = text.split(|&byte| byte == b'\n').next()?;
    let first: Map<String, Value> = serde_json::from_slice(line).ok()?;
    // A file that is a single object on one line has its entries further inside.
    let is_alone = text[line.len()..].trim_ascii().is_empty();
    (!is_alone || is_entry(&first, own)).then_some(first)
}

/// Whether an object is about a question, rather than about pictures or a licence: it has a known key, or one of `own`.
fn is_entry(object: &Map<String, Value>, own: &[&str]) -> bool {
    /// Keys that mark a question or an annotation, or a picture's list of both.
    const TELLING: [&str; 8] = ["question", "question_id", "question_text", "query", "q", "sent", "answers", "qas"];
    object.keys().any(|key| TELLING.iter().any(|telling| key.eq_ignore_ascii_case(telling)) || own.contains(&&**key))
}

#[derive(Default)]
struct Peeked {
    first: Option<(EntriesAt, Map<String, Value>)>,
    beside: Map<String, Value>,
}

/// Stops with an error once it has found an entry, so that the rest is not read.
struct PeekVisitor<'a> {
    found: &'a RefCell<Peeked>,
    own: &'a [&'a str],
    except: Option<&'a str>,
}

impl<'de> Visitor<'de> for PeekVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list or an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Some(Value::Object(first)) = list.next_element()? {
            self.found.borrow_mut().first = Some((EntriesAt::Top, first));
            return Err(de::Error::custom("found"));
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if self.except == Some(&*key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match map.next_value_seed(Below { peek: &self, key: &key })? {
                Value::Object(first) if self.except.is_none() && is_entry(&first, self.own) => {
                    self.found.borrow_mut().first = Some((EntriesAt::Values, first));
                    return Err(de::Error::custom("found"));
                }
                Value::Array(_) => {}
                value => drop(self.found.borrow_mut().beside.insert(key, value)),
            }
        }
        Ok(())
    }
}

/// Reads a value below the top level. Of a list it reads only the first object, and stops there if that is an entry.
struct Below<'a, 'b> {
    peek: &'a PeekVisitor<'b>,
    key: &'a str,
}

impl<'de> DeserializeSeed<'de> for Below<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        match list.next_element()? {
            Some(Value::Object(first)) if is_entry(&first, self.peek.own) => {
                self.peek.found.borrow_mut().first = Some((EntriesAt::Key(self.key.to_owned()), first));
                return Err(de::Error::custom("found"));
            }
            _ => while list.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        de::Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Calls `each` with every entry in order, reading only the fields that are `wanted`.
///
/// # Errors
///
/// When the file cannot be read, is not JSON (with line and column), or has something other than objects among its
/// entries; and the errors of `each`.
pub(super) fn for_each_entry(
    path: &Path,
    at: &EntriesAt,
    wanted: &BTreeSet<&str>,
    each: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let stopped = RefCell::new(None);
    let walk = Walk { wanted, each: RefCell::new(each), stopped: &stopped };
    let mut json = serde_json::Deserializer::from_reader(open_reader(path)?);
    let result = match at {
        EntriesAt::Lines => {
            let mut number = 0;
            loop {
                // Only white space may follow the last one.
                match json.end() {
                    Ok(()) => break Ok(()),
                    Err(error) if error.is_io() => break Err(error),
                    Err(_) => {}
                }
                number += 1;
                if let Err(error) = (EntrySeed { walk: &walk, number, key: None }).deserialize(&mut json) {
                    break Err(error);
                }
            }
        }
        EntriesAt::Top => json.deserialize_seq(ListVisitor(&walk)).and_then(|()| json.end()),
        EntriesAt::Key(key) => {
            json.deserialize_map(TopVisitor { walk: &walk, key: Some(key) }).and_then(|()| json.end())
        }
        EntriesAt::Values => json.deserialize_map(TopVisitor { walk: &walk, key: None }).and_then(|()| json.end()),
    };
    match (stopped.into_inner(), result) {
        (Some(error), _) => Err(error),
        (None, Err(source)) if *at == EntriesAt::Lines && !source.is_io() => {
            Err(Error::Json { path: path.to_owned(), source })
        }
        (None, Err(error)) => Err(explain_error(path, error)),
        (None, Ok(())) => Ok(()),
    }
}

/// The error for a file that serde has rejected. The file is read again to see what it is.
fn explain_error(path: &Path, error: serde_json::Error) -> Error {
    if error.is_io() {
        return Error::io("read", path)(error.into());
    }
    match open_text(path) {
        Ok(text) => explain(path, &text, error),
        Err(unreadable) => unreadable,
    }
}

type Each<'a> = &'a mut dyn FnMut(Entry) -> Result<()>;

struct Walk<'a> {
    wanted: &'a BTreeSet<&'a str>,
    each: RefCell<Each<'a>>,
    /// The error that `each` returned.
    stopped: &'a RefCell<Option<Error>>,
}

struct EntrySeed<'a, 'b> {
    walk: &'a Walk<'b>,
    number: u64,
    key: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for EntrySeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object, like all entries of this list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if self.walk.wanted.contains(key.as_str()) {
                let value = map.next_value()?;
                fields.insert(key, value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let entry = Entry { number: self.number, key: self.key, fields: &fields };
        (self.walk.each.borrow_mut())(entry).map_err(|error| {
            *self.walk.stopped.borrow_mut() = Some(error);
            de::Error::custom("stopped")
        })
    }
}

struct ListVisitor<'a, 'b>(&'a Walk<'b>);

impl<'de> DeserializeSeed<'de> for ListVisitor<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for number in 1.. {
            if list.next_element_seed(EntrySeed { walk: self.0, number, key: None })?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// The top-level object: entries are in the list under `key` or, without one, are its values.
struct TopVisitor<'a, 'b> {
    walk: &'a Walk<'b>,
    key: Option<&'a str>,
}

impl<'de> Visitor<'de> for TopVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(key) = map.next_key::<String>()? {
            match self.key {
                Some(wanted) if key == wanted => map.next_value_seed(ListVisitor(self.walk))?,
                Some(_) => drop(map.next_value::<IgnoredAny>()?),
                None => {
                    number += 1;
                    map.next_value_seed(EntrySeed { walk: self.walk, number, key: Some(&key) })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the entries are, and the "question" of each with its key.
    fn read(text: &str) -> Result<Option<(EntriesAt, Vec<String>)>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        std::fs::write(&path, text).unwrap();
        let Some(found) = peek(&path, &[]).map_err(|e| e.to_string())? else { return Ok(None) };
        let mut seen = Vec::new();
        for_each_entry(&path, &found.at, &["question"].into(), &mut |entry| {
            assert!(entry.fields.len() <= 1);
            let question = entry.fields.get("question").and_then(Value::as_str).unwrap_or("-");
            seen.push(format!("{}{} {question}", entry.number, entry.key.unwrap_or("")));
            Ok(())
        })
        .map_err(|e| e.to_string())?;
        Ok(Some((found.at, seen)))
    }

    #[test]
    fn entries_are_found_wherever_they_are() {
        let (a, b) = (r#"{"question": "a", "x": [[1], {}]}"#, r#"{"x": null, "question": "b"}"#);
        let both = ["1 a", "2 b"].map(str::to_owned).to_vec();
        for (text, at) in [
            (format!("[{a},{b}]"), EntriesAt::Top),
            (format!("\u{feff} [\n{a},\n{b}\n]\n"), EntriesAt::Top),
            (
                format!(
                    "{{\"images\": [{{\"id\": 1}}, {{\"id\": 2}}], \"info\": {{}}, \"data\": [{a},{b}], \"z\": [1]}}"
                ),
                EntriesAt::Key("data".into()),
            ),
            (format!("{a}\n{b}"), EntriesAt::Lines),
            (format!("{a}\n\n{b}\n\n"), EntriesAt::Lines),
        ] {
            assert_eq!(read(&text).unwrap(), Some((at, both.clone())), "{text}");
        }
        assert_eq!(read(a).unwrap(), Some((EntriesAt::Lines, vec!["1 a".to_owned()])));
        let by_id = format!("{{\"07\": {a}, \"q2\": {b}}}");
        assert_eq!(read(&by_id).unwrap(), Some((EntriesAt::Values, vec!["107 a".to_owned(), "2q2 b".to_owned()])));
        for text in ["[]", "[1, 2]", "{}", "{\"a\": [1], \"b\": {\"c\": 1}}"] {
            assert_eq!(read(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_has_a_line() {
        for (text, words) in [
            ("[\n{\"question\": \"a\"},\n{\"question\" \"b\"}]", "line 3"),
            ("[{\"question\": \"a\"}", "ends in the middle"),
            ("{\"question\": \"a\"}\n{\"question\": \"b\"\n", "ends in the middle"),
            ("{\"question\": \"a\"}\n7\n", "an object, like all entries"),
            ("[{\"question\": \"a\"}, 7]", "an object, like all entries"),
            ("[{\"question\": NaN}]", "NaN, which Python writes"),
            ("[{\"question\": \"a\"}] x", "trailing"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains("x.json: ") && problem.contains(words), "{text}: {problem}");
        }
    }
}
