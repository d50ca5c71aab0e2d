//! The config file of a run.

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
    /// Seed of everything random.
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
        if self.seed > i64::MAX as u64 {
            return Err(format!("seed = {}: it can be at most {}", self.seed, i64::MAX));
        }
        if self.dict.max_question_len == 0 {
            return Err("dict.max_question_len = 0: it must be at least 1".to_owned());
        }
        let problem =
            |(name, split): (&String, &SplitConfig)| split.validate().map_err(|e| format!("data.{name}: {e}"));
        self.data.iter().try_for_each(problem)
    }

    /// Resolves relative paths against `base`, except those of the model.
    pub fn resolve_paths(&mut self, base: &Path) {
        self.out_dir = base.join(&self.out_dir);
        self.dict.resolve_paths(base);
        self.data.values_mut().for_each(|split| split.resolve_paths(base));
    }
}
