//! The split that a question belongs to.

use std::path::Path;

use serde::Serialize;

/// A split, by what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitName {
    /// To train on.
    Train,
    /// To validate on.
    Val,
    /// To predict answers for.
    Test,
}

impl SplitName {
    /// All of them, in the order in which they are written.
    pub(super) const ALL: [SplitName; 3] = [SplitName::Train, SplitName::Val, SplitName::Test];

    /// The name, as in file names and in the config.
    pub fn name(self) -> &'static str {
        match self {
            SplitName::Train => "train",
            SplitName::Val => "val",
            SplitName::Test => "test",
        }
    }

    /// The split that a name indicates, if any word in it does: `train`, `test-dev`, `validation split` …
    pub(super) fn of_name(name: &str) -> Option<SplitName> {
        name.split(|c: char| !c.is_ascii_alphanumeric()).find_map(SplitName::of_word)
    }

    /// The split that a word names: `train`, `train2014`, `validation`, `dev`, `test` …
    fn of_word(word: &str) -> Option<SplitName> {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase();
        match word.as_str() {
            "train" | "training" => Some(SplitName::Train),
            "val" | "valid" | "validate" | "validation" | "dev" | "minival" => Some(SplitName::Val),
            "test" | "testing" | "testdev" | "teststd" => Some(SplitName::Test),
            _ => None,
        }
    }

    /// The split that the name of a file indicates, if any word in it does.
    pub(super) fn of_file(path: &Path) -> Option<SplitName> {
        let name = path.file_name()?.to_string_lossy();
        SplitName::of_name(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_named_in_many_ways() {
        let of_file = |name: &str| SplitName::of_file(Path::new(name));
        assert_eq!(of_file("x/v2_OpenEnded_mscoco_val2014_questions.json"), Some(SplitName::Val));
        assert_eq!(of_file("train-00000-of-00004.parquet"), Some(SplitName::Train));
        assert_eq!(of_file("TextVQA_0.5.1_test.json"), Some(SplitName::Test));
        assert_eq!(of_file("train/questions.csv"), None);
        assert_eq!(of_file("trainer.csv"), None);
        assert_eq!(SplitName::of_name(" Validation "), Some(SplitName::Val));
        // VQA2.0's names of its test splits.
        assert_eq!(["test-dev", "test-std"].map(SplitName::of_name), [Some(SplitName::Test); 2]);
        assert_eq!(["", "holdout", "0"].map(SplitName::of_name), [None; 3]);
    }
}
