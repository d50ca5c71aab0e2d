//! The pictures that exist, and which of them the data refers to.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;

use crate::error::{Error, Result};
use crate::features::image_name::{EXTENSIONS, image_id, is_picture_extension};
use crate::questions::whole_number::whole_number_of;

/// A picture's index, in order of the paths.
pub(super) type Picture = u32;

/// Pictures, indexed by all that data may call them.
#[derive(Debug, Default)]
pub(super) struct Pictures {
    /// Their names relative to the directory, separated by `/`, and their paths.
    paths: Vec<(String, PathBuf)>,
    by_file_name: Index,
    by_stem: Index,
    by_id: Index,
}

/// Pictures sorted by a key: an id, or the hash of a text, in which case the texts are compared after the look-up.
#[derive(Debug, Default)]
struct Index(Vec<(u64, Picture)>);

impl Index {
    fn new(mut entries: Vec<(u64, Picture)>) -> Index {
        entries.sort_unstable();
        Index(entries)
    }

    fn get(&self, key: u64) -> impl Iterator<Item = Picture> {
        let start = self.0.partition_point(|&(other, _)| other < key);
        self.0[start..].iter().take_while(move |&&(other, _)| other == key).map(|&(_, picture)| picture)
    }
}

fn hash(text: &str) -> u64 {
    FixedState::default().hash_one(text)
}

/// Two pictures that a name fits equally well.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ambiguous(pub [String; 2]);

impl Pictures {
    /// Finds the pictures in a directory and those below it, following links. Hidden files and directories are left
    /// out.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read, or there is no picture.
    pub(super) fn search(directory: &Path) -> Result<Pictures> {
        let mut open = vec![(String::new(), directory.to_owned())];
        let mut seen = HashSet::new();
        let mut paths = Vec::new();
        while let Some((name, directory)) = open.pop() {
            let read_error = || Error::io("read the directory", &directory);
            let metadata = std::fs::metadata(&directory).map_err(read_error())?;
            // Links can lead in circles.
            if !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            for entry in std::fs::read_dir(&directory).map_err(read_error())? {
                let path = entry.map_err(read_error())?.path();
                let Some(file) = path.file_name().and_then(|file| file.to_str()) else { continue };
                let name = if name.is_empty() { file.to_owned() } else { format!("{name}/{file}") };
                let has_picture_extension =
                    file.rsplit_once('.').is_some_and(|(_, extension)| is_picture_extension(extension));
                match std::fs::metadata(&path) {
                    _ if file.starts_with('.') => {}
                    Ok(metadata) if metadata.is_dir() => open.push((name, path)),
                    Ok(metadata) if metadata.is_file() && has_picture_extension => paths.push((name, path)),
                    _ => {}
                }
            }
        }
        if paths.is_empty() {
            let problem = format!("no pictures in it (.{})", EXTENSIONS.join(", ."));
            return Err(Error::wrong_format(directory, problem));
        }
        Ok(Pictures::new(paths))
    }

    /// Indexes pictures, given their names relative to a directory, and their paths.
    pub(super) fn new(mut paths: Vec<(String, PathBuf)>) -> Pictures {
        paths.sort_by(|(a, _), (b, _)| natural_key(a).cmp(&natural_key(b)).then_with(|| a.cmp(b)));
        let (mut by_file_name, mut by_stem, mut by_id) = (Vec::new(), Vec::new(), Vec::new());
        for (picture, (name, _)) in (0..).zip(&paths) {
            let file = last_part(name).to_lowercase();
            by_file_name.push((hash(&file), picture));
            by_stem.push((hash(stem(&file)), picture));
            by_id.extend(image_id(name).map(|id| (id, picture)));
        }
        let [by_file_name, by_stem, by_id] = [by_file_name, by_stem, by_id].map(Index::new);
        Pictures { paths, by_file_name, by_stem, by_id }
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    pub(super) fn name(&self, picture: Picture) -> &str {
        &self.paths[picture as usize].0
    }

    pub(super) fn path(&self, picture: Picture) -> &Path {
        &self.paths[picture as usize].1
    }

    /// Finds the picture that data calls `name`: by its path, where either path may be the end of the other; by its
    /// path without the extension; or by the id at the end of its name.
    ///
    /// # Errors
    ///
    /// When several pictures fit, and `name` is the full path of none of them.
    pub(super) fn find(&self, name: &str) -> Result<Option<Picture>, Ambiguous> {
        let name = name.trim().replace('\\', "/");
        let exact = name.trim_start_matches("./");
        let name = exact.to_lowercase();
        let file = last_part(&name);
        let of_path = self.by_file_name.get(hash(file));
        if let Some(found) =
            self.only(of_path, |there| fits(there, &name), |there| [there == exact, there.to_lowercase() == name])?
        {
            return Ok(Some(found));
        }
        let of_stem = self.by_stem.get(hash(file));
        let is_exact = |there: &str| [stem(there) == exact, stem(there).to_lowercase() == name];
        if let Some(found) = self.only(of_stem, |there| fits(stem(there), &name), is_exact)? {
            return Ok(Some(found));
        }
        match whole_number_of(&name) {
            Some(id) => self.only(self.by_id.get(id), |_| true, |_| [false, false]),
            None => Ok(None),
        }
    }

    /// Returns the only one of these pictures whose name fits, in lower case; or, of several, the only one whose name
    /// is exactly right, by the first criterion that leaves one.
    fn only<const N: usize>(
        &self,
        among: impl Iterator<Item = Picture>,
        fits: impl Fn(&str) -> bool,
        is_exact: impl Fn(&str) -> [bool; N],
    ) -> Result<Option<Picture>, Ambiguous> {
        let fitting: Vec<Picture> = among.filter(|&picture| fits(&self.name(picture).to_lowercase())).collect();
        let [first, second, ..] = fitting[..] else { return Ok(fitting.first().copied()) };
        for criterion in 0..N {
            let mut exact = fitting.iter().copied().filter(|&picture| is_exact(self.name(picture))[criterion]);
            if let (Some(only), None) = (exact.next(), exact.next()) {
                return Ok(Some(only));
            }
        }
        Err(Ambiguous([first, second].map(|picture| self.name(picture).to_owned())))
    }
}

/// Whether one of two paths is the end of the other.
fn fits(a: &str, b: &str) -> bool {
    let is_end_of =
        |end: &str, path: &str| path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    is_end_of(a, b) || is_end_of(b, a)
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A name without its extension, if that is a picture's.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if is_picture_extension(extension) => stem,
        _ => name,
    }
}

/// A sort key that puts `image2` before `image10`: texts and numbers in turn.
fn natural_key(name: &str) -> Vec<(&str, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits_at = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits_at);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        key.push((text, after[..end].parse().unwrap_or(u64::MAX)));
        rest = &after[end..];
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(names: &[&str]) -> Pictures {
        Pictures::new(names.iter().map(|name| ((*name).to_owned(), Path::new("dir").join(name))).collect())
    }

    #[test]
    fn pictures_are_in_the_order_of_people() {
        let pictures = pictures(&["image10.jpg", "image2.jpg", "a/1.jpg", "Image1.jpg"]);
        let names: Vec<&str> = (0..4).map(|picture| pictures.name(picture)).collect();
        assert_eq!(names, ["Image1.jpg", "a/1.jpg", "image2.jpg", "image10.jpg"]);
    }

    #[test]
    fn what_data_calls_a_picture() {
        let pictures = pictures(&[
            "train/a.jpg",
            "val/a.jpg",
            "x/b.PNG",
            "image7.jpg",
            "COCO_train2014_000000000009.jpg",
            "xmlab1/source.jpg",
            "n161313.jpg",
        ]);
        let find = |name: &str| pictures.find(name).map(|found| found.map(|picture| pictures.name(picture)));
        for (name, found) in [
            ("train/a.jpg", Some("train/a.jpg")),
            ("/home/other/data/val/a.jpg", Some("val/a.jpg")),
            ("b.png", Some("x/b.PNG")),
            ("b", Some("x/b.PNG")),
            (".\\x\\b.png", Some("x/b.PNG")),
            ("image7", Some("image7.jpg")),
            (" image7.jpg ", Some("image7.jpg")),
            ("9", Some("COCO_train2014_000000000009.jpg")),
            ("xmlab1/source.jpg", Some("xmlab1/source.jpg")),
            ("xmlab2/source.jpg", None),
            ("n161313", Some("n161313.jpg")),
            ("161313", None),
            ("7", None),
            ("y/b.png", None),
            ("", None),
        ] {
            assert_eq!(find(name), Ok(found), "{name}");
        }
        let both = Ambiguous(["train/a.jpg", "val/a.jpg"].map(str::to_owned));
        assert_eq!(find("a.jpg"), Err(both));
    }

    /// A directory may have pictures of the same name, or of names that differ only in case.
    #[test]
    fn a_full_path_is_never_ambiguous() {
        let pictures = pictures(&["kitchen.jpg", "garden/kitchen.jpg", "b.png", "B.png"]);
        let find = |name: &str| pictures.find(name).map(|found| found.map(|picture| pictures.name(picture)));
        for name in ["kitchen.jpg", "garden/kitchen.jpg", "b.png", "B.png"] {
            assert_eq!(find(name), Ok(Some(name)));
        }
        assert_eq!(find("./Kitchen.JPG"), Ok(Some("kitchen.jpg")));
        assert_eq!(find("garden/kitchen"), Ok(Some("garden/kitchen.jpg")));
        assert_eq!(find("kitchen"), Ok(Some("kitchen.jpg")));
    }

    #[test]
    fn directories_are_searched_without_what_is_hidden() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::create_dir_all(at.join("a/.git")).unwrap();
        assert!(Pictures::search(at).unwrap_err().to_string().contains("no pictures in it"));
        for name in ["a/1.jpg", "a/.git/2.jpg", "a/._1.jpg", "notes.txt", "3.webp"] {
            std::fs::write(at.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(at, at.join("a/circle")).unwrap();
        let pictures = Pictures::search(at).unwrap();
        assert_eq!(
            (0..pictures.len() as u32).map(|picture| pictures.name(picture)).collect::<Vec<_>>(),
            ["3.webp", "a/1.jpg"]
        );
        assert_eq!(pictures.path(1), at.join("a/1.jpg"));
    }
}
