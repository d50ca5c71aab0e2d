//! The config file.

#[cfg(feature = "torch")]
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use vqa_data::{DictConfig, Error, IndexMap, SplitConfig};

#[cfg(feature = "torch")]
use {vqa_model::ModelConfig, vqa_train::TrainConfig};

/// Without libtorch these tables are not looked into.
#[cfg(not(feature = "torch"))]
type ModelConfig = Table;
#[cfg(not(feature = "torch"))]
type TrainConfig = Table;

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where this was read from.
    #[serde(skip)]
    pub path: PathBuf,
    pub seed: u64,
    pub device: String,
    pub out_dir: PathBuf,
    pub dict: DictConfig,
    pub data: IndexMap<String, SplitConfig>,
    pub model: ModelConfig,
    pub train: TrainConfig,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            path: PathBuf::new(),
            seed: 1111,
            device: "auto".to_owned(),
            out_dir: "runs/baseline".into(),
            dict: DictConfig::default(),
            data: IndexMap::new(),
            model: ModelConfig::default(),
            train: TrainConfig::default(),
        }
    }
}

impl Config {
    /// Reads a config file, changes the given keys, and makes its paths absolute.
    pub fn load(path: &Path, settings: &[(String, String)]) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let mut config: Config = toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
        if !settings.is_empty() {
            let mut table: Table = toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
            for (key, value) in settings {
                set(&mut table, key, value)?;
                config = table
                    .clone()
                    .try_into()
                    .map_err(|error| anyhow::anyhow!("--set {key}={value}: {}", message(&error)))?;
            }
        }
        config.validate().with_context(|| format!("{}", path.display()))?;
        let absolute = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        config.path = path.to_owned();
        config.out_dir = base.join(&config.out_dir);
        config.dict.resolve_paths(base);
        #[cfg(feature = "torch")]
        config.model.resolve_paths(base);
        config.data.values_mut().for_each(|split| split.resolve_paths(base));
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        if self.seed > i64::MAX as u64 {
            bail!("seed = {}, and at most {} is wanted", self.seed, i64::MAX);
        }
        if self.dict.max_question_len == 0 {
            bail!("dict.max_question_len = 0, and at least 1 is wanted");
        }
        for (name, split) in &self.data {
            split.validate().map_err(|problem| anyhow::anyhow!("data.{name}: {problem}"))?;
        }
        #[cfg(feature = "torch")]
        {
            self.model.validate().map_err(anyhow::Error::msg)?;
            self.train.validate().map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// The split of this name.
    #[cfg(feature = "torch")]
    pub fn split(&self, name: &str) -> Result<&SplitConfig> {
        self.data.get(name).with_context(|| {
            let names: Vec<&str> = self.data.keys().map(String::as_str).collect();
            format!("{}: there is no split \"{name}\"; it has: {}", self.path.display(), names.join(", "))
        })
    }

    /// Where a split is described, for errors about it.
    pub fn place(&self, split: &str) -> String {
        format!("{}, split \"{split}\"", self.path.display())
    }

    /// The config as a file has it, defaults included.
    #[cfg(feature = "torch")]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a config can be written as TOML")
    }

    /// Dotted keys whose values differ, with both values.
    #[cfg(feature = "torch")]
    pub fn differences(&self, other: &Config) -> Vec<(String, String, String)> {
        let flat = |config: &Config| {
            let mut flat = BTreeMap::new();
            flatten("", &Value::try_from(config).expect("a config can be written as TOML"), &mut flat);
            flat
        };
        let (ours, theirs) = (flat(self), flat(other));
        let nothing = "nothing".to_owned();
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter()
            .map(|key| {
                let value = |of: &BTreeMap<String, String>| of.get(key).unwrap_or(&nothing).clone();
                (key.clone(), value(&ours), value(&theirs))
            })
            .filter(|(_, ours, theirs)| ours != theirs)
            .collect()
    }
}

#[cfg(feature = "torch")]
fn flatten(prefix: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    let at = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&at(key), value, flat)),
        Value::Array(list) if list.iter().any(Value::is_table) => {
            list.iter().enumerate().for_each(|(i, value)| flatten(&at(&i.to_string()), value, flat));
        }
        other => {
            flat.insert(prefix.to_owned(), other.to_string());
        }
    }
}

/// Sets a dotted key, as in `data.val.composition.0.features`. What is no TOML value is taken as a string.
fn set(table: &mut Table, key: &str, value: &str) -> Result<()> {
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let (parents, last) =
        key.rsplit_once('.').map_or((Vec::new(), key), |(parents, last)| (parents.split('.').collect(), last));
    let mut place = table;
    let mut parents = parents.into_iter();
    while let Some(parent) = parents.next() {
        let mut child = place.entry(parent).or_insert_with(|| Value::Table(Table::new()));
        while let Value::Array(list) = child {
            let index = parents.next().and_then(|index| index.parse::<usize>().ok());
            child = index
                .and_then(|index| list.get_mut(index))
                .with_context(|| format!("--set {key}: \"{parent}\" is a list; give the place in it, from 0"))?;
        }
        place = child.as_table_mut().with_context(|| format!("--set {key}: \"{parent}\" is no table"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// An error in the file, with its line.
fn explain(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
    let place = line.map(|line| format!(" line {line}:")).unwrap_or_default();
    anyhow::anyhow!("{}:{place} {}", path.display(), message(error))
}

/// What TOML says, but for an unknown key the nearest known one.
fn message(error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', " ");
    // In the words of people who do not know Rust.
    let message = ["u64", "usize", "i64"]
        .iter()
        .fold(message, |message, name| message.replace(&format!("expected {name}"), "and a whole number is wanted"))
        .replace("expected f64", "and a number is wanted");
    let Some(rest) = message.strip_prefix("unknown field `") else { return message };
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
    let nearest =
        known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match nearest {
        Some(nearest) if strsim::jaro_winkler(unknown, nearest) > 0.7 => {
            format!("unknown key \"{unknown}\"; did you mean \"{nearest}\"?")
        }
        _ => format!("unknown key \"{unknown}\"; known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, settings: &[(&str, &str)]) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let settings: Vec<_> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(&path, &settings).map_err(|error| format!("{error:#}"))
    }

    const DATA: &str = "[[data.val.composition]]\nq_jsons = [\"q.json\"]\n";

    #[test]
    fn settings_reach_every_key() {
        let config = load(
            DATA,
            &[
                ("out_dir", "runs/x"),
                ("train.n_epochs", "3"),
                ("train.lr_steps", "[1, 2]"),
                ("data.val.composition.0.features", "f.h5"),
                ("model.topdown_att.type", "concat"),
            ],
        )
        .unwrap();
        assert!(config.out_dir.is_absolute() && config.out_dir.ends_with("runs/x"));
        assert!(config.data["val"].composition[0].features.as_ref().unwrap().is_absolute());
        #[cfg(feature = "torch")]
        assert_eq!((config.train.n_epochs, config.train.lr_steps), (3, vec![1, 2]));
        assert!(load(DATA, &[("data.val.composition.features", "f.h5")]).unwrap_err().contains("is a list"));
        assert!(load(DATA, &[("seed.x", "1")]).is_err());
    }

    #[test]
    fn unknown_keys_suggest_the_nearest() {
        let error = load("seed = 1\n[dict]\nmin_answers_count = 3\n", &[]).unwrap_err();
        assert!(error.contains("line 3") && error.contains("did you mean \"min_answer_count\"?"), "{error}");
        let error = load("", &[("dict.word", "x")]).unwrap_err();
        assert!(error.contains("--set dict.word=x") && error.contains("did you mean \"words\"?"), "{error}");
        let error = load("seed = \"one\"", &[]).unwrap_err();
        assert!(error.contains("line 1") && error.contains("a whole number is wanted"), "{error}");
    }

    #[cfg(feature = "torch")]
    #[test]
    fn a_written_config_is_the_same_config() {
        let config = load(DATA, &[]).unwrap();
        let again: Config = toml::from_str(&config.to_toml()).unwrap();
        assert_eq!(Config { path: config.path.clone(), ..again }, config);
        let other = load(DATA, &[("seed", "2")]).unwrap();
        let keys: Vec<String> = config.differences(&other).into_iter().map(|(key, ..)| key).collect();
        assert!(keys.contains(&"seed".to_owned()), "{keys:?}");
    }
}
