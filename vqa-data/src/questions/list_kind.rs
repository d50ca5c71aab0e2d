//! Which of VQA2.0's lists a file contains.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::error::Error;
use crate::questions::scan::skip_space;

/// What a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    Questions,
    Annotations,
    Results,
}

impl ListKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            ListKind::Questions => "questions",
            ListKind::Annotations => "annotations",
            ListKind::Results => "results",
        }
    }

    /// What messages call a file of this kind.
    fn file(self) -> &'static str {
        match self {
            ListKind::Questions => "a questions file",
            ListKind::Annotations => "an annotations file",
            ListKind::Results => "a results file",
        }
    }

    /// The key that the list may be under. Results have none.
    pub(super) fn key(self) -> Option<&'static str> {
        (self != ListKind::Results).then(|| self.name())
    }

    /// Finds the kind of list in a file, by its key or, for a bare list, by the keys of its first entry.
    pub(super) fn of(text: &[u8]) -> Option<ListKind> {
        type Keys = BTreeMap<String, IgnoredAny>;
        let kinds = [ListKind::Questions, ListKind::Annotations];
        if !is_bare_list(text) {
            let keys: Keys = serde_json::from_slice(text).ok()?;
            return kinds.into_iter().find(|kind| keys.contains_key(kind.name()));
        }
        let entries = &text[skip_space(text, 0) + 1..];
        let first = serde_json::Deserializer::from_slice(entries).into_iter::<Keys>().next()?.ok()?;
        let signs =
            [(ListKind::Annotations, "answers"), (ListKind::Questions, "question"), (ListKind::Results, "answer")];
        signs.into_iter().find(|(_, key)| first.contains_key(*key)).map(|(kind, _)| kind)
    }
}

/// Whether a file is itself a list, rather than an object that contains one.
pub(super) fn is_bare_list(text: &[u8]) -> bool {
    text.get(skip_space(text, 0)) == Some(&b'[')
}

/// The error for a file without the expected list.
pub(super) fn another_list(path: &Path, text: &[u8], wanted: ListKind) -> Error {
    let problem = match ListKind::of(text) {
        Some(found) => format!("{} where {} was expected: were the two swapped?", found.file(), wanted.file()),
        None => format!("no list \"{0}\" in it: not a VQA2.0 {0} file", wanted.name()),
    };
    Error::wrong_format(path, problem)
}
