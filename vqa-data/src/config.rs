//! The config file of a run.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::questions::prepare::DictConfig;
use crate::questions::split::SplitConfig;

/// Everything that a run depends on, as in a config file. The `[model]` and `[train]` tables belong to other crates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config<Model, Train> {
    /// Seed of all randomness.
    pub seed: u64,
    /// Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: String,
    /// The directory of the run.
    pub out_dir: PathBuf,
    /// The dictionaries.
    pub dict: DictConfig,
    /// The data splits, by name.
    pub data: IndexMap<String, SplitConfig>,
    /// The model.
    pub model: Model,
    /// Training.
    pub train: Train,
}

/// The largest value of `dict.max_question_len`, in words.
pub const MAX_QUESTION_LEN: usize = 1024;

/// The largest batch size, in questions.
pub const MAX_BATCH_SIZE: usize = 1 << 20;

/// Checks that the value of a config key, given by its full path, lies in a range. NaN lies in none.
///
/// # Errors
///
/// Names the key, its value, and the range.
pub fn check_range<T: PartialOrd + Debug>(key: &str, value: T, range: RangeInclusive<T>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{key} = {value:?}, expected {:?} to {:?}", range.start(), range.end()))
}

impl<Model: Default, Train: Default> Default for Config<Model, Train> {
    fn default() -> Config<Model, Train> {
        Config {
            seed: 1111,
            device: "auto".to_owned(),
            out_dir: "runs/baseline".into(),
            dict: DictConfig::default(),
            data: IndexMap::new(),
            model: Model::default(),
            train: Train::default(),
        }
    }
}

impl<Model, Train> Config<Model, Train> {
    /// Checks all values except those of the model and of training.
    ///
    /// # Errors
    ///
    /// Names the first key with an invalid value.
    pub fn validate(&self) -> Result<(), String> {
        check_range("seed", self.seed, 0..=i64::MAX as u64)?;
        check_range("dict.max_question_len", self.dict.max_question_len, 1..=MAX_QUESTION_LEN)?;
        if self.dict.words == self.dict.answers {
            return Err(format!("dict.words and dict.answers are the same file, {}", self.dict.words.display()));
        }
        let problem =
            |(name, split): (&String, &SplitConfig)| split.validate().map_err(|e| format!("data.{name}: {e}"));
        self.data.iter().try_for_each(problem)
    }

    /// Returns a hint if no split is called `val`, the name to validate on, but another seems meant for it.
    pub fn misnamed_val(&self) -> Option<String> {
        let seems_meant = |name: &&String| {
            let name = name.to_lowercase();
            name.starts_with("val") || name.starts_with("dev")
        };
        let name = self.data.keys().find(seems_meant).filter(|_| !self.data.contains_key("val"))?;
        Some(format!("[data.{name}] is not used for validation: call it [data.val], the name that training looks for"))
    }

    /// Resolves relative paths against `base`, except those of the model.
    pub fn resolve_paths(&mut self, base: &Path) {
        self.out_dir = base.join(&self.out_dir);
        self.dict.resolve_paths(base);
        self.data.values_mut().for_each(|split| split.resolve_paths(base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_that_seems_to_be_val_is_named() {
        let hint = |names: &[&str]| {
            let data = names.iter().map(|name| ((*name).to_owned(), SplitConfig::default())).collect();
            Config::<(), ()> { data, ..Config::default() }.misnamed_val()
        };
        for name in ["validation", "Val", "val2014", "dev"] {
            let hint = hint(&["train", name]).unwrap();
            assert!(hint.contains(&format!("[data.{name}]")) && hint.contains("[data.val]"), "{hint}");
        }
        for names in [&["train", "val"][..], &["train", "val", "validation"], &["train", "test"], &[]] {
            assert_eq!(hint(names), None);
        }
    }

    #[test]
    fn a_template_must_name_images() {
        let problem = |images: &str| {
            let source =
                crate::questions::split::SourceConfig { images: Some(images.to_owned()), ..Default::default() };
            let data = [("train".to_owned(), SplitConfig::from(vec![source]))].into();
            Config::<(), ()> { data, ..Config::default() }.validate()
        };
        assert_eq!(problem("a/{image_id:012}.jpg"), Ok(()));
        for template in ["a/image.jpg", "a/{image_id:x}.jpg", "a/{}.jpg"] {
            let problem = problem(template).unwrap_err();
            assert!(problem.starts_with("data.train: ") && problem.contains(template), "{problem}");
        }
    }
}
