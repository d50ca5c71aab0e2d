//! Where the images of a source are: `images` in a config.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::files::text::open_text;
use crate::message::{counted, first_few};
use crate::questions::not_json::explain;
use crate::questions::whole_number::whole_number_of;

/// The paths of images by their ids, from the value of
/// [`SourceConfig::images`](crate::questions::SourceConfig::images).
///
/// That value is a template with the id in it, or the path of a JSON file `{"1": "beach/red.jpg", …}`, whose paths are
/// relative to the file's own directory.
///
/// ```
/// use vqa_data::questions::ImagePaths;
///
/// let images = ImagePaths::open("train2014/COCO_train2014_{image_id:012}.jpg").unwrap();
/// let path = images.path(9).unwrap();
/// assert_eq!(path, std::path::Path::new("train2014/COCO_train2014_000000000009.jpg"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePaths(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Template(Template),
    Listed { file: PathBuf, paths: BTreeMap<u64, PathBuf> },
}

impl ImagePaths {
    /// Parses a template or, if the text is the path of a `.json` file, reads that file.
    ///
    /// # Errors
    ///
    /// When the text is neither, or the file cannot be read: see [`ImagePaths::read`].
    pub fn open(images: &str) -> Result<ImagePaths> {
        match is_json(images) {
            true => ImagePaths::read(Path::new(images)),
            false => Ok(ImagePaths(Form::Template(Template::parse(images)?))),
        }
    }

    /// Reads a JSON file `{"image_id": "path", …}`.
    ///
    /// # Errors
    ///
    /// When the file is missing, is not such JSON (with line and column), or contains an id twice.
    pub fn read(path: &Path) -> Result<ImagePaths> {
        let text = open_text(path)?;
        let listed: Listed = serde_json::from_slice(&text).map_err(|source| explain(path, &text, source))?;
        if !listed.twins.is_empty() {
            let mut twins = listed.twins;
            let problem = format!(
                "{} used twice ({}): keep one path for each",
                counted(twins.len(), "image id"),
                first_few(&mut twins)
            );
            return Err(Error::duplicate(path, problem));
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let paths = listed.paths.into_iter().map(|(image_id, path)| (image_id, directory.join(path))).collect();
        Ok(ImagePaths(Form::Listed { file: path.to_owned(), paths }))
    }

    /// Checks that a text is a template or names a JSON file, without reading the file.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn check(images: &str) -> Result<()> {
        if is_json(images) { Ok(()) } else { Template::parse(images).map(drop) }
    }

    /// Returns the path of an image, whether or not the file exists.
    ///
    /// # Errors
    ///
    /// When the JSON file does not list the image.
    pub fn path(&self, image_id: u64) -> Result<PathBuf> {
        match &self.0 {
            Form::Template(template) => Ok(template.path(image_id)),
            Form::Listed { file, paths } => paths.get(&image_id).cloned().ok_or_else(|| {
                let problem = format!(
                    "image {image_id} is not among the {} that are listed: add \"{image_id}\": \"its path\"",
                    paths.len()
                );
                Error::mismatch(file, problem)
            }),
        }
    }

    /// The listed images in order of their ids, each with its path; `None` for a template, which fits any id.
    pub fn listed(&self) -> Option<impl ExactSizeIterator<Item = (u64, &Path)>> {
        match &self.0 {
            Form::Template(_) => None,
            Form::Listed { paths, .. } => Some(paths.iter().map(|(&image_id, path)| (image_id, path.as_path()))),
        }
    }
}

/// Whether `images` names a JSON file.
fn is_json(images: &str) -> bool {
    let extension = Path::new(images).extension();
    !images.contains("{image_id") && extension.is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// A path with `{image_id}` or, padded with zeros, `{image_id:012}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    /// The text before each id, and the width to which the id is padded.
    parts: Vec<(String, usize)>,
    end: String,
}

impl Template {
    fn parse(template: &str) -> Result<Template> {
        /// The largest width to which an id is padded, in digits.
        const MAX_WIDTH: usize = 64;
        let refuse = || {
            Error::invalid(format!(
                "images = \"{template}\" does not contain the image id: write {{image_id}} in its place, or \
                 {{image_id:012}} for twelve digits, or give a JSON file of ids and paths, images.json"
            ))
        };
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{image_id") {
            let (format, after) = after.split_once('}').ok_or_else(refuse)?;
            let width = match format.strip_prefix(':') {
                None if format.is_empty() => 0,
                Some(digits) => digits.parse().ok().filter(|&width| width <= MAX_WIDTH).ok_or_else(refuse)?,
                None => return Err(refuse()),
            };
            parts.push((before.to_owned(), width));
            rest = after;
        }
        if parts.is_empty() { Err(refuse()) } else { Ok(Template { parts, end: rest.to_owned() }) }
    }

    fn path(&self, image_id: u64) -> PathBuf {
        let mut path = String::new();
        for (before, width) in &self.parts {
            path.push_str(before);
            path.push_str(&format!("{image_id:0width$}"));
        }
        path.push_str(&self.end);
        path.into()
    }
}

/// The content of a JSON file, and the ids that appear more than once: a plain map would silently keep one of each.
struct Listed {
    paths: BTreeMap<u64, PathBuf>,
    twins: Vec<u64>,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listed, D::Error> {
        deserializer.deserialize_map(ListedVisitor)
    }
}

struct ListedVisitor;

impl<'de> Visitor<'de> for ListedVisitor {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("{\"image id\": \"path\", …}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        let mut listed = Listed { paths: BTreeMap::new(), twins: Vec::new() };
        while let Some(key) = map.next_key::<String>()? {
            let image_id = whole_number_of(&key).ok_or_else(|| {
                de::Error::custom(format!("\"{key}\" is not an image id, which is a whole number in quotes"))
            })?;
            match listed.paths.entry(image_id) {
                Entry::Vacant(place) => drop(place.insert(map.next_value()?)),
                Entry::Occupied(_) => {
                    map.next_value::<de::IgnoredAny>()?;
                    listed.twins.push(image_id);
                }
            }
        }
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let path = |template: &str, image_id| ImagePaths::open(template).unwrap().path(image_id).unwrap();
        assert_eq!(path("a/{image_id}.png", 12), Path::new("a/12.png"));
        assert_eq!(path("{image_id:4}.png", 12), Path::new("0012.png"));
        assert_eq!(path("{image_id:03}/{image_id}.png", 12), Path::new("012/12.png"));
        assert_eq!(path("{image_id}.json", 12), Path::new("12.json"));
        for bad in ["a.png", "{image_id}/{image_id:x}.png", "{image_id", "{image_id:x}.png", "{image_idx}.png", ""] {
            assert!(ImagePaths::check(bad).is_err(), "{bad}");
        }
        assert!(ImagePaths::open("{image_id}").unwrap().listed().is_none());
    }

    fn read(text: &str) -> Result<ImagePaths, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.json");
        std::fs::write(&path, text).unwrap();
        let images = ImagePaths::open(path.to_str().unwrap()).map_err(|error| error.to_string())?;
        // Strip the temporary directory, which is gone afterwards.
        let of = |(image_id, at): (u64, &Path)| (image_id, at.strip_prefix(directory.path()).unwrap_or(at).to_owned());
        let paths = images.listed().unwrap().map(of).collect();
        Ok(ImagePaths(Form::Listed { file: "images.json".into(), paths }))
    }

    #[test]
    fn paths_of_a_json_file_are_beside_it() {
        let images = read(r#"{"10": "b/x.jpg", "002": "/a.png"}"#).unwrap();
        let listed: Vec<(u64, &Path)> = images.listed().unwrap().collect();
        assert_eq!(listed, [(2, Path::new("/a.png")), (10, Path::new("b/x.jpg"))]);
        assert_eq!(images.path(10).unwrap(), Path::new("b/x.jpg"));
        let missing = images.path(7).unwrap_err().to_string();
        assert!(missing.contains("images.json: image 7 is not among the 2"), "{missing}");
    }

    #[test]
    fn a_file_that_lists_no_images_is_named() {
        for (text, words) in [
            (r#"{"1": "a", "2": "b", "01": "c", "2": "d"}"#, "2 image ids used twice (1, 2)"),
            ("{\n\"1\": \"a\",\n\"b.jpg\": \"b\"}", "\"b.jpg\" is not an image id"),
            (r#"{"-1": "a"}"#, "not an image id"),
            (r#"{"1": 2}"#, "line 1"),
            (r#"["a"]"#, "{\"image id\": \"path\", …}"),
            (r#"{"1": "a""#, "ends in the middle"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains("images.json") && problem.contains(words), "{problem}");
        }
        assert!(ImagePaths::open("nowhere/images.json").unwrap_err().to_string().contains("no such file"));
    }
}
