//! Lists of image ids, as people have them.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Visitor};

use crate::error::{Error, Result};
use crate::features::image_name::image_id;
use crate::features::whole_number::whole_number;
use crate::files::input::read_text;
use crate::message::shorten;

/// Reads a list of image ids: one on each line, or a JSON list. An id is a number, in quotes or not, or a name that
/// ends in one, as in `COCO_val2014_000000000042.jpg`. A line may also be a name and its id, as in
/// `val2014/dog.jpg 42`.
///
/// # Errors
///
/// Those of [`read_text`]; and when the file contains anything else, or nothing.
pub fn read_image_ids(path: &Path) -> Result<HashSet<u64>> {
    let text = read_text(path)?;
    let text = text.trim_start_matches('\u{feff}');
    let ids = if text.trim_start().starts_with('[') {
        let ids: Vec<ListedId> =
            serde_json::from_str(text).map_err(|source| Error::Json { path: path.to_owned(), source })?;
        ids.into_iter().map(|ListedId(id)| id).collect()
    } else if text.trim_start().starts_with('{') {
        return Err(Error::wrong_format(path, "a JSON object, not a list of image ids"));
    } else {
        ids_of_lines(text).map_err(|problem| Error::wrong_format(path, problem))?
    };
    if ids.is_empty() {
        return Err(Error::wrong_format(path, "no image ids in it: write one per line"));
    }
    Ok(ids)
}

fn ids_of_lines(text: &str) -> Result<HashSet<u64>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(n, line)| id_of_line(line).map_err(|problem| format!("line {n}: {problem}"))).collect()
}

fn id_of_line(line: &str) -> Result<u64, String> {
    let is_separator = |c: char| c.is_whitespace() || c == ',';
    let fields = line.split(is_separator).map(|field| field.trim_matches(['"', '\''])).filter(|x| !x.is_empty());
    match fields.collect::<Vec<_>>()[..] {
        [id] => id_of(id).ok_or_else(|| format!("\"{}\" is not an image id", shorten(id))),
        [name, id] if whole_number(name).is_none() => match (image_id(name), whole_number(id)) {
            (Some(named), Some(id)) if named != id => {
                Err(format!("the name says image {named}, but the id {id} follows it: write one id per line"))
            }
            (_, Some(id)) => Ok(id),
            (_, None) => Err(format!("\"{}\" is not an image id", shorten(id))),
        },
        _ => Err(format!("\"{}\" is not an image id: write one per line", shorten(line.trim()))),
    }
}

fn id_of(text: &str) -> Option<u64> {
    whole_number(text).or_else(|| image_id(text))
}

/// An id in a JSON list.
struct ListedId(u64);

impl<'de> Deserialize<'de> for ListedId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ListedId, D::Error> {
        deserializer.deserialize_any(ListedIdVisitor)
    }
}

struct ListedIdVisitor;

impl Visitor<'_> for ListedIdVisitor {
    type Value = ListedId;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an image id, or a name that ends in one")
    }

    fn visit_u64<E>(self, id: u64) -> Result<ListedId, E> {
        Ok(ListedId(id))
    }

    fn visit_f64<E: serde::de::Error>(self, id: f64) -> Result<ListedId, E> {
        /// Above this, doubles skip whole numbers.
        const LARGEST: f64 = (1u64 << 53) as f64;
        let is_whole = id.fract() == 0.0 && (0.0..=LARGEST).contains(&id);
        if is_whole { Ok(ListedId(id as u64)) } else { Err(E::custom(format!("{id} is not an image id"))) }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ListedId, E> {
        id_of(text).map(ListedId).ok_or_else(|| E::custom(format!("\"{}\" is not an image id", shorten(text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u64>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut ids: Vec<u64> = read_image_ids(file.path()).map_err(|e| e.to_string())?.into_iter().collect();
        ids.sort_unstable();
        Ok(ids)
    }

    #[test]
    fn lists_as_people_have_them() {
        for list in [
            "9\n42\n",
            "\u{feff}42\r\n\r\n 9 \r\n",
            "\"9\"\n'42'",
            "9.0\n42.0",
            "9,\n42,\n",
            "COCO_val2014_000000000042.jpg\nval2014/COCO_val2014_000000000009.jpg\n",
            // Karpathy's lists, as they come with bottom-up-attention.
            "val2014/COCO_val2014_000000000042.jpg 42\nval2014/COCO_val2014_000000000009.jpg\t9\n",
            "dog.jpg,42\ncat.jpg,9",
            "[42, 9]",
            "\u{feff} [\"9\", 42.0, \"COCO_val2014_000000000042.jpg\"]",
        ] {
            assert_eq!(read(list.as_bytes()).unwrap(), [9, 42], "{list}");
        }
    }

    #[test]
    fn other_things_are_explained() {
        for (list, words) in [
            ("9\nten\n", "line 2: \"ten\" is not an image id"),
            ("003a8ae2ef43b901\n", "line 1: \"003a8ae2ef43b901\" is not an image id"),
            ("0,9\n1,42\n", "line 1: \"0,9\" is not an image id: write one per line"),
            ("a_42.jpg 9\n", "the name says image 42, but the id 9 follows it"),
            ("\n\n", "no image ids in it"),
            ("[]", "no image ids in it"),
            ("[9,\n\"ten\"]", "\"ten\" is not an image id at line 2"),
            ("[-1]", "expected an image id"),
            ("[9.5]", "9.5 is not an image id"),
            ("{\"9\": 1}", "a JSON object, not a list of image ids"),
            ("-3\n", "is not an image id"),
        ] {
            let error = read(list.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{list}: {error}");
        }
        assert!(read(b"9\n\xff\n").unwrap_err().contains("not UTF-8 text"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_never_ends_is_not_read() {
        let error = read_image_ids(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("/dev/zero: a device, not a file"), "{error}");
    }
}
