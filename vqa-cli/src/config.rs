//! The config file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};
use vqa_data::files::read_text;
#[cfg(feature = "torch")]
use vqa_data::questions::SplitConfig;

use crate::keys::{RunConfig, explain_unknown, first_unknown};

/// A config file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its path.
    pub path: PathBuf,
    /// Its content, with absolute paths.
    pub run: RunConfig,
}

impl Config {
    /// Reads a config file and changes the given keys. All paths become absolute. They are resolved against the file's
    /// directory, in the settings too, except for `model.init` there: see [`Config::set_init`].
    pub fn load(path: &Path, settings: &[(String, String)]) -> Result<Config> {
        let text = read_text(path)?;
        let of_file = |problem: String| anyhow::anyhow!("{}: {problem}", path.display());
        let mut run: RunConfig = toml::from_str(&text).map_err(|error| of_file(explain(&text, &error)))?;
        let absolute = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        resolve_paths(&mut run, directory).map_err(of_file)?;
        let mut config = Config { path: path.to_owned(), run };
        if !settings.is_empty() {
            config.run = with_settings(&config.run, settings)?;
            #[cfg(feature = "torch")]
            if let Some(init) = config.run.model.init.take() {
                config.set_init(&init)?;
            }
            resolve_paths(&mut config.run, directory).map_err(of_file)?;
        }
        validate(&config.run).map_err(of_file)?;
        Ok(config)
    }

    /// Sets `model.init` to a file named on the command line. It is looked for in the working directory, where the
    /// shell completes its name, and then in the config's directory.
    #[cfg(feature = "torch")]
    pub fn set_init(&mut self, init: &Path) -> Result<()> {
        let [here, config] = [init, &self.path].map(std::path::absolute);
        let (here, beside) = (here?, config?.with_file_name(init));
        self.run.model.init = Some(if !here.exists() && beside.exists() { beside } else { here });
        Ok(())
    }

    /// The split of this name.
    #[cfg(feature = "torch")]
    pub fn split(&self, name: &str) -> Result<&SplitConfig> {
        self.run.data.get(name).with_context(|| {
            let names: Vec<&str> = self.run.data.keys().map(String::as_str).collect();
            format!("{}: no split \"{name}\"; it has: {}", self.path.display(), names.join(", "))
        })
    }

    /// The file and split, for error messages.
    pub fn place(&self, split: &str) -> String {
        format!("{}, split \"{split}\"", self.path.display())
    }
}

/// Resolves relative paths against `base`. An empty `out_dir` would become `base` itself, which is never intended.
fn resolve_paths(run: &mut RunConfig, base: &Path) -> Result<(), String> {
    if run.out_dir.as_os_str().is_empty() {
        return Err("out_dir is empty: name the directory of the run".to_owned());
    }
    run.resolve_paths(base);
    #[cfg(feature = "torch")]
    run.model.resolve_paths(base);
    Ok(())
}

fn validate(run: &RunConfig) -> Result<(), String> {
    run.validate()?;
    #[cfg(feature = "torch")]
    {
        run.model.validate()?;
        run.train.validate()?;
    }
    Ok(())
}

/// Returns the config with some keys changed.
fn with_settings(run: &RunConfig, settings: &[(String, String)]) -> Result<RunConfig> {
    let mut table = Table::try_from(run).context("--set cannot change a config whose paths are not UTF-8")?;
    let mut changed = run.clone();
    for (key, value) in settings {
        let of_setting = |problem: String| anyhow::anyhow!("--set {key}={value}: {problem}");
        let parts = parse_key(key).map_err(of_setting)?;
        set(&mut table, &parts, parse_value(value)).map_err(of_setting)?;
        changed = table.clone().try_into().map_err(|error| {
            of_setting(match first_unknown(&Value::Table(table.clone())).filter(|_| is_unknown_key(&error)) {
                Some(unknown) if parts.starts_with(&unknown) => explain_unknown(&parts),
                Some(unknown) => explain_unknown(&unknown),
                None => in_plain_words(&error),
            })
        })?;
    }
    Ok(changed)
}

/// Splits a dotted key into its parts, which may be quoted, as in `train.optim.weight_decay_of."classifier.main.3"`.
fn parse_key(key: &str) -> Result<Vec<String>, String> {
    /// More than any key has, and few enough for the recursive functions that handle tables.
    const MAX_DOTS: usize = 32;
    let problem = || "not a key: write one as in train.n_epochs=3".to_owned();
    if key.matches('.').count() > MAX_DOTS {
        return Err(problem());
    }
    let mut value = toml::from_str::<Value>(&format!("{key} = 0")).map_err(|_| problem())?;
    let mut parts = Vec::new();
    while let Value::Table(table) = value {
        let (name, below) = table.into_iter().next().ok_or_else(problem)?;
        parts.push(name);
        value = below;
    }
    Ok(parts)
}

/// Parses a value as TOML. Anything else is taken as a string, so that strings need no quotes.
fn parse_value(value: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok();
    let parsed = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(value.to_owned()))
}

/// Sets a key. The part that follows the name of a list is an index.
fn set(table: &mut Table, key: &[String], value: Value) -> Result<(), String> {
    let (last, parents) = key.split_last().expect("a key has a part");
    let mut place = table;
    let mut parents = parents.iter();
    while let Some(parent) = parents.next() {
        let mut child = place.entry(parent).or_insert_with(|| Value::Table(Table::new()));
        while let Value::Array(list) = child {
            let n = list.len();
            let index = parents.next().and_then(|index| index.parse::<usize>().ok());
            child = index
                .and_then(|index| list.get_mut(index))
                .ok_or_else(|| format!("\"{parent}\" is a list of {n}: give an index from 0, as in {parent}.0"))?;
        }
        place = child.as_table_mut().ok_or_else(|| format!("\"{parent}\" is not a table"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// Describes an error in the file, with its line.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let unknown = toml::from_str(text).ok().and_then(|config| first_unknown(&config));
    match unknown.filter(|_| is_unknown_key(error)) {
        Some(unknown) => format!("{line}{}", explain_unknown(&unknown)),
        None => format!("{line}{}", in_plain_words(error)),
    }
}

fn is_unknown_key(error: &toml::de::Error) -> bool {
    error.message().starts_with("unknown field")
}

/// The parser's message, reworded for people who do not know Rust.
fn in_plain_words(error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', " ");
    let message = ["u64", "usize", "i64"]
        .iter()
        .fold(message, |message, name| message.replace(&format!("expected {name}"), "expected a whole number"))
        .replace("expected f64", "expected a number")
        .replace("expected a sequence", "expected a list, as in [1, 2] or [\"a\", \"b\"]");
    match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected a table"),
        None => message,
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
        assert!(load(DATA, &[("data.val.composition.0.q_jsons", "q.json")]).unwrap_err().contains("expected a list"));
        assert!(load(DATA, &[("dict", "5")]).unwrap_err().ends_with("expected a table"));
    }

    #[test]
    fn paths_are_relative_to_the_config() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, format!("{DATA}features = \"f.h5\"\n")).unwrap();
        let settings = [("out_dir", "a"), ("dict.words", "b"), ("data.val.composition.0.images", "c/{image_id}.jpg")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let run = Config::load(&path, &settings).unwrap().run;
        let at = directory.path();
        let val = &run.data["val"].composition[0];
        assert_eq!((run.out_dir, run.dict.words), (at.join("a"), at.join("b")));
        assert_eq!(val.images.as_deref(), at.join("c/{image_id}.jpg").to_str());
        assert_eq!((run.dict.answers, val.features.as_deref()), (at.join("answers.json"), Some(&*at.join("f.h5"))));
    }

    /// Each is an error that names the full path of the key and the values allowed; nothing is allocated for it.
    #[test]
    fn values_that_cannot_be_used_are_named() {
        let shared = [
            ("dict.max_question_len", "0", "= 0, expected 1 to 1024"),
            ("dict.max_question_len", "1025", "1 to 1024"),
            ("dict.max_question_len", "1000000000000", "1 to 1024"),
            ("seed", "-1", ""),
            ("data.val.limit", "0", "at least 1"),
            ("data.val.fraction", "nan", "above 0 and at most 1"),
        ];
        let of_model = [
            ("model.hid_dim", "0", "= 0, expected 1 to 65536"),
            ("model.hid_dim", "-5", "1 to 65536"),
            ("model.hid_dim", "4611686018427387904", "1 to 65536"),
            ("model.hid_dim", "65536", "parameters, more than the limit of 2147483648: lower model.hid_dim"),
            ("model.lm.word_emb_dim", "9223372036854775807", "1 to 65536"),
            ("model.lm.n_layers", "9223372036854775807", "= 9223372036854775807, expected 1 to 64"),
            ("model.lm.n_layers", "0", "1 to 64"),
            ("model.lm.dropout", "1.0", "0.0 to 0.999"),
            ("model.topdown_att.hid_dim", "1099511627776", "1 to 65536"),
            ("model.topdown_att.dropout", "nan", "= NaN, expected 0.0 to 0.999"),
            ("model.mlp.hid_dim", "0", "1 to 65536"),
            ("model.mlp.dropout", "0.999995", "= 0.999995, expected 0.0 to 0.999"),
            ("model.mlp.dropout", "-0.1", "0.0 to 0.999"),
            ("train.n_epochs", "0", "1 to 1000000"),
            ("train.n_epochs", "9223372036854775807", "1 to 1000000"),
            ("train.batch_size", "0", "1 to 1048576"),
            ("train.batch_size", "9223372036854775807", "1 to 1048576"),
            ("train.accumulate", "0", "expected 1 to 512, the train.batch_size"),
            ("train.accumulate", "513", "expected 1 to 512, the train.batch_size"),
            ("train.val_freq", "0", "1 to"),
            ("train.log_every", "0", "1 to"),
            ("train.collective_timeout", "0", "1 to 1000000000"),
            ("train.collective_timeout", "9223372036854775807", "1 to 1000000000"),
            ("train.ema_decay", "0.9999999999", "0.0 to 0.999999"),
            ("train.ema_decay", "inf", "0.0 to 0.999999"),
            ("train.max_grad_norm", "inf", "= inf, expected 1e-30 to 1e30"),
            ("train.warmup_factor", "-1", "1e-30 to 1e30"),
            ("train.lr_ratio", "nan", "1e-30 to 1e30"),
            ("train.lr_steps", "[2, 1]", "rising order"),
            ("train.optim.lr", "0.0", "1e-30 to 1e30"),
            ("train.optim.lr", "1e300", "1e-30 to 1e30"),
            ("train.optim.eps", "1e-50", "= 1e-50, expected 1e-30 to 1e30"),
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
        assert!(error.contains("line 3") && error.contains("did you mean \"dict.min_answer_count\"?"), "{error}");
        let error = load("", &[("dict.word", "x")]).unwrap_err();
        assert!(error.contains("--set dict.word=x") && error.contains("did you mean \"dict.words\"?"), "{error}");
        let error = load("seed = \"one\"", &[]).unwrap_err();
        assert!(error.contains("line 1") && error.contains("expected a whole number"), "{error}");
    }

    #[test]
    fn keys_may_be_quoted_and_are_never_too_deep() {
        let deep = "a.".repeat(20_000);
        assert!(load(DATA, &[(&deep, "1")]).unwrap_err().contains("not a key"));
        for brackets in ["[".repeat(100_000), "{a=".repeat(100_000), "[".repeat(100_000) + &"]".repeat(100_000)] {
            assert!(load(DATA, &[("seed", &brackets)]).unwrap_err().contains("expected a whole number"));
        }
        #[cfg(feature = "torch")]
        {
            let config = load(DATA, &[("train.optim.weight_decay_of.\"classifier.main.3\"", "0.5")]).unwrap();
            assert_eq!(config.run.train.optim.weight_decay_of["classifier.main.3"], 0.5);
        }
    }
}
