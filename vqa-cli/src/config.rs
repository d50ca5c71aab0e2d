//! The config file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};
use vqa_data::Error;
#[cfg(feature = "torch")]
use vqa_data::questions::SplitConfig;

/// Without libtorch the tables of the model and of training are not looked into.
#[cfg(not(feature = "torch"))]
type RunConfig = vqa_data::config::Config<Table, Table>;
#[cfg(feature = "torch")]
use vqa_train::run::RunConfig;

/// A config file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where it is.
    pub path: PathBuf,
    /// What it says, its paths absolute.
    pub run: RunConfig,
}

impl Config {
    /// Reads a config file, changes the given keys, and makes its paths absolute.
    pub fn load(path: &Path, settings: &[(String, String)]) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let mut run: RunConfig = toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
        if !settings.is_empty() {
            let mut table: Table = toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
            for (key, value) in settings {
                set(&mut table, key, value)?;
                run = table
                    .clone()
                    .try_into()
                    .map_err(|error| anyhow::anyhow!("--set {key}={value}: {}", message(&error)))?;
            }
        }
        validate(&run).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
        let absolute = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        run.resolve_paths(base);
        #[cfg(feature = "torch")]
        run.model.resolve_paths(base);
        Ok(Config { path: path.to_owned(), run })
    }

    /// The split of this name.
    #[cfg(feature = "torch")]
    pub fn split(&self, name: &str) -> Result<&SplitConfig> {
        self.run.data.get(name).with_context(|| {
            let names: Vec<&str> = self.run.data.keys().map(String::as_str).collect();
            format!("{}: there is no split \"{name}\"; it has: {}", self.path.display(), names.join(", "))
        })
    }

    /// Where a split is described, for errors about it.
    pub fn place(&self, split: &str) -> String {
        format!("{}, split \"{split}\"", self.path.display())
    }
}

fn validate(run: &RunConfig) -> Result<(), String> {
    if run.out_dir.as_os_str().is_empty() {
        return Err("out_dir is empty: name the directory of the run".to_owned());
    }
    run.validate()?;
    #[cfg(feature = "torch")]
    {
        run.model.validate()?;
        run.train.validate()?;
    }
    Ok(())
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
        Config::load(&path, &settings).map_err(|error| crate::whole_message(&error))
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
        assert!(config.run.out_dir.is_absolute() && config.run.out_dir.ends_with("runs/x"));
        assert!(config.run.data["val"].composition[0].features.as_ref().unwrap().is_absolute());
        #[cfg(feature = "torch")]
        assert_eq!((config.run.train.n_epochs, config.run.train.lr_steps), (3, vec![1, 2]));
        assert!(load(DATA, &[("data.val.composition.features", "f.h5")]).unwrap_err().contains("is a list"));
        assert!(load(DATA, &[("seed.x", "1")]).is_err());
    }

    /// Each is an error that names the key by its whole path, and what is wanted; nothing is allocated for it.
    #[test]
    fn values_that_cannot_be_used_are_named() {
        let shared = [
            ("dict.max_question_len", "0", "= 0, and 1 to 1024 is wanted"),
            ("dict.max_question_len", "1025", "1 to 1024"),
            ("dict.max_question_len", "1000000000000", "1 to 1024"),
            ("seed", "-1", ""),
            ("data.val.limit", "0", "at least 1"),
            ("data.val.fraction", "nan", "above 0 and at most 1"),
        ];
        let of_model = [
            ("model.hid_dim", "0", "= 0, and 1 to 65536 is wanted"),
            ("model.hid_dim", "-5", "1 to 65536"),
            ("model.hid_dim", "4611686018427387904", "1 to 65536"),
            ("model.hid_dim", "65536", "parameters, and at most 2147483648 is wanted: lower model.hid_dim"),
            ("model.lm.word_emb_dim", "9223372036854775807", "1 to 65536"),
            ("model.lm.n_layers", "9223372036854775807", "= 9223372036854775807, and 1 to 64 is wanted"),
            ("model.lm.n_layers", "0", "1 to 64"),
            ("model.lm.dropout", "1.0", "0.0 to 0.999"),
            ("model.topdown_att.hid_dim", "1099511627776", "1 to 65536"),
            ("model.topdown_att.dropout", "nan", "= NaN, and 0.0 to 0.999 is wanted"),
            ("model.mlp.hid_dim", "0", "1 to 65536"),
            ("model.mlp.dropout", "0.999995", "= 0.999995, and 0.0 to 0.999 is wanted"),
            ("model.mlp.dropout", "-0.1", "0.0 to 0.999"),
            ("train.n_epochs", "0", "1 to 1000000"),
            ("train.n_epochs", "9223372036854775807", "1 to 1000000"),
            ("train.batch_size", "0", "1 to 1048576"),
            ("train.batch_size", "9223372036854775807", "1 to 1048576"),
            ("train.accumulate", "0", "1 to 512 is wanted, which is train.batch_size"),
            ("train.accumulate", "513", "1 to 512 is wanted, which is train.batch_size"),
            ("train.val_freq", "0", "1 to"),
            ("train.log_every", "0", "1 to"),
            ("train.ema_decay", "0.9999999999", "0.0 to 0.999999"),
            ("train.ema_decay", "inf", "0.0 to 0.999999"),
            ("train.max_grad_norm", "inf", "= inf, and 1e-30 to 1e30 is wanted"),
            ("train.warmup_factor", "-1", "1e-30 to 1e30"),
            ("train.lr_ratio", "nan", "1e-30 to 1e30"),
            ("train.lr_steps", "[2, 1]", "rising order"),
            ("train.optim.lr", "0.0", "1e-30 to 1e30"),
            ("train.optim.lr", "1e300", "1e-30 to 1e30"),
            ("train.optim.eps", "1e-50", "= 1e-50, and 1e-30 to 1e30 is wanted"),
            ("train.optim.betas", "[0.9, 1.0]", "0 to just below 1"),
            ("train.optim.betas", "[nan, 0.9]", "0 to just below 1"),
            ("train.optim.weight_decay", "-1e-4", "0.0 to 1e30"),
            ("train.optim.weight_decay_of.q_net", "inf", "0.0 to 1e30"),
        ];
        let of_model = of_model.into_iter().filter(|_| cfg!(feature = "torch"));
        for (key, value, words) in shared.into_iter().chain(of_model) {
            let error = load(DATA, &[(key, value)]).expect_err(key);
            let place = key.replace("data.val.", "data.val: ").replace(".q_net", ".\"q_net\"");
            assert!(error.contains(&place) && error.contains(words), "{key}={value}: {error}");
        }
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
}
