//! Finds out which run a directory contains, and what may differ when it is resumed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use toml::Value;
use vqa_data::config::Config;
use vqa_data::files::read_text;
use vqa_data::questions::DictConfig;
use vqa_model::baseline::{AttentionConfig, ClassifierConfig, LanguageModelConfig, ModelConfig};
use vqa_model::run::RunDir;

use crate::config::{AdamaxConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::run::change::{Affects, Change};

/// The config of a run of the article's model.
pub type RunConfig = Config<ModelConfig, TrainConfig>;

/// A run that is resumed.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// Where it stands.
    pub position: Position,
    /// Keys whose values have changed.
    pub changes: Vec<Change>,
    /// Comments about earlier changes.
    earlier_comments: String,
}

impl Resumed {
    /// Returns comments for the head of the run's `config.toml`: the old values of changed keys that affect the steps,
    /// and until which step they applied.
    pub fn comments(&self) -> String {
        let mut comments = self.earlier_comments.clone();
        for Change { key, before, .. } in self.changes.iter().filter(|change| change.affects == Affects::LaterSteps) {
            comments.push_str(&format!("# until step {}: {key} = {before}\n", self.position.step));
        }
        comments
    }
}

/// Refuses to mix two runs in one directory. Returns the run in it if there is one and it can be resumed.
///
/// # Errors
///
/// When there is a run but `resume` is false, or one that cannot be resumed with this config.
pub fn check_run_dir(run: &RunDir, config: &RunConfig, resume: bool) -> Result<Option<Resumed>> {
    let position = Position::saved_in(run)?;
    if position.is_none() && run.checkpoints()?.is_empty() {
        // There is nothing to lose, and a new attempt may have another config.
        return Ok(None);
    }
    let out_dir = run.path().to_owned();
    let problem = |problem: &str| Error::Run { path: out_dir.clone(), problem: problem.to_owned() };
    if !run.config().exists() {
        return Err(problem("there is a run in it, but no config.toml: choose another out_dir"));
    }
    let changes = changes(&run.read_config()?, config);
    let is_refused = |change: &&Change| change.key != "out_dir" && !(resume && change.is_allowed());
    let refused: Vec<Change> = changes.iter().filter(is_refused).cloned().collect();
    match position {
        _ if !refused.is_empty() && resume => Err(Error::CannotChange { out_dir, changes: refused }),
        _ if !refused.is_empty() => Err(Error::AnotherRun { out_dir, changes: refused }),
        Some(position) if resume => {
            let path = run.config();
            let text = read_text(&path)?;
            let comments = text.lines().take_while(|line| line.starts_with('#')).flat_map(|line| [line, "\n"]);
            Ok(Some(Resumed { position, changes, earlier_comments: comments.collect() }))
        }
        Some(position) => Err(Error::RunExists { out_dir, position }),
        None => Err(problem("there are checkpoints in it, but no state/ to resume from: choose another out_dir")),
    }
}

/// Collects the keys whose values differ.
struct Comparison(Vec<Change>);

impl Comparison {
    fn add<T: Serialize>(&mut self, key: &str, before: &T, now: &T, affects: Affects) {
        let text = |value: &T| Value::try_from(value).map_or_else(|_| "nothing".to_owned(), |value| value.to_string());
        let (before, now) = (text(before), text(now));
        if before != now {
            self.0.push(Change { key: key.to_owned(), before, now, affects });
        }
    }
}

/// Compares the named fields of a struct. The code does not compile if a field is left out.
macro_rules! compare {
    ($comparison:ident, $before:expr, $now:expr, $prefix:literal,
     $type:ident { $($field:ident $($key:literal)? : $affects:ident),+ $(, ; $($nested:ident),+)? $(,)? }) => {
        let $type { $($field,)+ $($($nested: _,)+)? } = $now;
        $(
            let key = [$($key,)? stringify!($field)][0];
            $comparison.add(&format!("{}{key}", $prefix), &$before.$field, $field, Affects::$affects);
        )+
    };
}

/// Returns the keys whose values differ, sorted.
fn changes(before: &RunConfig, now: &RunConfig) -> Vec<Change> {
    let mut found = Comparison(Vec::new());
    compare!(found, before, now, "", Config {
        seed: EarlierSteps, device: Nothing, out_dir: Nothing, ; dict, data, model, train
    });
    compare!(
        found,
        before.dict,
        &now.dict,
        "dict.",
        DictConfig {
            words: Paths,
            answers: Paths,
            min_answer_count: EarlierSteps,
            count_answers: EarlierSteps,
            max_question_len: EarlierSteps
        }
    );
    for name in now.data.keys().chain(before.data.keys().filter(|&name| !now.data.contains_key(name))) {
        let [before, now] = [before, now].map(|config| flat_split(config, name));
        let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for key in keys {
            found.add(&format!("data.{name}.{key}"), &before.get(key), &now.get(key), Affects::Paths);
        }
    }
    compare!(found, before.model, &now.model, "model.", ModelConfig {
        hid_dim: EarlierSteps, loss: EarlierSteps, init: Paths, ; lm, topdown_att, mlp
    });
    compare!(
        found,
        before.model.lm,
        &now.model.lm,
        "model.lm.",
        LanguageModelConfig {
            word_emb_dim: EarlierSteps,
            glove: Paths,
            rnn_type: EarlierSteps,
            n_layers: EarlierSteps,
            bidirectional: EarlierSteps,
            dropout: EarlierSteps,
        }
    );
    compare!(found, before.model.topdown_att, &now.model.topdown_att, "model.topdown_att.", AttentionConfig {
        kind "type": EarlierSteps, hid_dim: EarlierSteps, dropout: EarlierSteps,
    });
    compare!(
        found,
        before.model.mlp,
        &now.model.mlp,
        "model.mlp.",
        ClassifierConfig { hid_dim: EarlierSteps, dropout: EarlierSteps }
    );
    compare!(found, before.train, &now.train, "train.", TrainConfig {
        n_epochs: Nothing, batch_size: EarlierSteps, val_freq: Nothing, patience: Nothing, checkpoint_every: Nothing,
        keep_last: Nothing, keep_best: Nothing, precision: LaterSteps, accumulate: EarlierSteps,
        ema_decay: EarlierSteps,
        sampler: EarlierSteps, features_on_device: Nothing, all_reduce: LaterSteps, collective_timeout: Nothing, log_every: Nothing, clip_grad: LaterSteps,
        max_grad_norm: LaterSteps, warmup_steps: EarlierSteps, warmup_factor: EarlierSteps, lr_steps: LaterSteps,
        lr_ratio: LaterSteps, ; optim
    });
    compare!(
        found,
        before.train.optim,
        &now.train.optim,
        "train.optim.",
        AdamaxConfig {
            lr: LaterSteps,
            betas: EarlierSteps,
            eps: EarlierSteps,
            weight_decay: EarlierSteps,
            weight_decay_of: EarlierSteps,
        }
    );
    found.0.sort_by(|a, b| a.key.cmp(&b.key));
    found.0
}

/// Returns the values of a split by dotted keys, such as `composition.0.features`.
fn flat_split(config: &RunConfig, name: &str) -> BTreeMap<String, Value> {
    fn flatten(key: &str, value: Value, flat: &mut BTreeMap<String, Value>) {
        let below = |next: &str| if key.is_empty() { next.to_owned() } else { format!("{key}.{next}") };
        match value {
            Value::Table(table) => table.into_iter().for_each(|(next, value)| flatten(&below(&next), value, flat)),
            Value::Array(list) if list.iter().any(Value::is_table) => {
                list.into_iter().enumerate().for_each(|(i, value)| flatten(&below(&i.to_string()), value, flat));
            }
            other => drop(flat.insert(key.to_owned(), other)),
        }
    }
    let mut flat = BTreeMap::new();
    let split = config.data.get(name).map(|split| Value::try_from(split).expect("a split can be written as TOML"));
    split.into_iter().for_each(|split| flatten("", split, &mut flat));
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use vqa_data::questions::{SourceConfig, SplitConfig};

    fn config() -> RunConfig {
        let source = SourceConfig {
            q_jsons: vec!["/a/q.json".into()],
            a_jsons: vec!["/a/a.json".into()],
            features: Some("/a/f.h5".into()),
            images: None,
        };
        let data = [("train".to_owned(), SplitConfig { limit: Some(9), ..SplitConfig::from(vec![source]) })];
        let model = ModelConfig { init: Some("/a/i.pth".into()), ..ModelConfig::default() };
        RunConfig { data: data.into_iter().collect(), model, ..RunConfig::default() }
    }

    #[test]
    fn a_written_config_is_the_same_config() {
        let written = toml::to_string(&config()).unwrap();
        let read: RunConfig = toml::from_str(&written).unwrap();
        assert_eq!(read, config());
        assert_eq!(changes(&read, &config()), []);
    }

    /// Returns all dotted keys of a table.
    fn keys(table: &toml::Table, prefix: &str) -> Vec<String> {
        let below = |(key, value): (&String, &Value)| match value {
            Value::Table(table) if key != "data" => keys(table, &format!("{prefix}{key}.")),
            _ => vec![format!("{prefix}{key}")],
        };
        table.iter().flat_map(below).collect()
    }

    /// Returns a value that differs from this one.
    fn other(value: &Value) -> Value {
        match value {
            Value::Boolean(value) => Value::Boolean(!value),
            Value::Integer(value) => Value::Integer(value + 1),
            Value::Float(value) => Value::Float(value / 2.0 + 0.01),
            Value::Array(list) if list.is_empty() => Value::Array(vec![Value::Integer(7)]),
            Value::Array(list) => Value::Array(list.iter().map(other).collect()),
            Value::String(value) => {
                let others = ["softmax", "LSTM", "concat", "bf16", "grouped", "never", "raw"];
                let known = ["logistic", "GRU", "product", "fp32", "random", "auto", "normalized"];
                let place = known.iter().position(|known| known == value);
                Value::String(place.map_or_else(|| format!("{value}x"), |place| others[place].to_owned()))
            }
            other => other.clone(),
        }
    }

    /// A change of any single key of the config is found, under the key's name in the file.
    #[test]
    fn every_key_is_compared() {
        let table = toml::Table::try_from(config()).unwrap();
        let mut keys = keys(&table, "");
        keys.retain(|key| key != "data");
        assert!(keys.len() > 40, "{keys:?}");
        for key in keys {
            let mut changed = table.clone();
            let mut parts: Vec<&str> = key.split('.').collect();
            let last = parts.pop().unwrap();
            let place = parts.iter().fold(&mut changed, |table, part| table[*part].as_table_mut().unwrap());
            place[last] = other(&place[last]);
            let changed: RunConfig = changed.try_into().unwrap_or_else(|error| panic!("{key}: {error}"));
            let found: Vec<String> = changes(&config(), &changed).into_iter().map(|change| change.key).collect();
            assert_eq!(found, [key]);
        }
    }

    #[test]
    fn moved_files_are_the_same_files() {
        let moved = |path: &str| {
            let mut now = config();
            now.data.get_mut("train").unwrap().composition[0].features = Some(path.into());
            changes(&config(), &now)
        };
        let [same] = &moved("/b/f.h5")[..] else { panic!("one change") };
        assert_eq!(same.to_string(), "data.train.composition.0.features = \"/b/f.h5\", was \"/a/f.h5\"");
        assert!(same.is_allowed());
        assert!(!moved("/a/g.h5")[0].is_allowed());
        let with_init = |init: Option<&str>| {
            let model = ModelConfig { init: init.map(Into::into), ..config().model };
            changes(&config(), &RunConfig { model, ..config() })
        };
        let inits = [Some("/b/i.pth"), Some("/b/j.pth"), None].map(with_init);
        assert_eq!(inits.map(|changed| changed[0].is_allowed()), [true, false, false]);
        let mut fewer = config();
        fewer.data.get_mut("train").unwrap().limit = Some(8);
        let [limit] = &changes(&config(), &fewer)[..] else { panic!("one change") };
        assert!(limit.key == "data.train.limit" && !limit.is_allowed());
        let mut without = config();
        without.data.clear();
        assert_eq!(changes(&config(), &without).len(), 4);
    }
}
