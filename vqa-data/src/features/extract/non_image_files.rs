//! Files that are not images.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::message::counted;
use serde::Serialize;

/// Files of a folder that are not images, counted by the reason: an extension such as `.txt`, `hidden`,
/// `without extension`, `pipe or device`. Displayed as a short list with an example of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct NonImageFiles(BTreeMap<String, Kind>);

/// The files of one kind. In JSON, only their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "usize")]
struct Kind {
    n_files: usize,
    example: PathBuf,
}

impl From<Kind> for usize {
    fn from(kind: Kind) -> usize {
        kind.n_files
    }
}

impl NonImageFiles {
    /// Number of files.
    pub fn n_files(&self) -> usize {
        self.0.values().map(|kind| kind.n_files).sum()
    }

    pub(super) fn add(&mut self, kind: String, path: &Path) {
        let new = || Kind { n_files: 0, example: path.to_owned() };
        self.0.entry(kind).or_insert_with(new).n_files += 1;
    }
}

impl fmt::Display for NonImageFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let mut kinds: Vec<(&String, &Kind)> = self.0.iter().collect();
        kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.n_files));
        write!(f, "{}: ", counted(self.n_files(), "other file"))?;
        for (i, (name, Kind { n_files, example })) in kinds.iter().take(SHOWN).enumerate() {
            let separator = if i > 0 { ", " } else { "" };
            let more = if *n_files > 1 { ", …" } else { "" };
            write!(f, "{separator}{n_files} {name} ({}{more})", example.display())?;
        }
        match kinds.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            n => write!(f, ", and {}", counted(n, "other kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short() {
        let mut left_out = NonImageFiles::default();
        for (kind, path) in [(".txt", "a/b.txt"), ("hidden", "._x"), (".txt", "c.txt"), (".txt", "d.txt")] {
            left_out.add(kind.to_owned(), Path::new(path));
        }
        assert_eq!(left_out.to_string(), "4 other files: 3 .txt (a/b.txt, …), 1 hidden (._x)");
        assert_eq!(serde_json::to_string(&left_out).unwrap(), r#"{".txt":3,"hidden":1}"#);
        (0..50).for_each(|i| left_out.add(format!(".{i}"), Path::new("x")));
        assert!(left_out.to_string().ends_with(", and 47 other kinds"), "{left_out}");
    }
}
