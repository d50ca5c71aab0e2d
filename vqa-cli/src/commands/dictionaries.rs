//! Builds the dictionaries of a new run that has none yet.

use std::path::Path;

use anyhow::{Context, Result, bail};
use vqa_data::questions::{AnswerDict, Split, WordDict, make_dictionaries};

use crate::commands::split;
use crate::config::Config;
use crate::terminal::say;

/// Whether both files are missing.
pub fn are_missing(config: &Config) -> Result<bool> {
    let dict = &config.run.dict;
    match (dict.words.exists(), dict.answers.exists()) {
        (true, true) => return Ok(false),
        (true, false) => bail!("{}", one_is_missing(&dict.answers, &dict.words)),
        (false, true) => bail!("{}", one_is_missing(&dict.words, &dict.answers)),
        (false, false) => {}
    }
    // Pickles are somebody else's dictionaries, so the path must be mistyped.
    if let Some(path) = [&dict.words, &dict.answers].into_iter().find(|path| path.extension() == Some("pkl".as_ref())) {
        bail!("{}: no such file, and `vqa` writes only JSON dictionaries: check the path", path.display());
    }
    Ok(true)
}

/// Builds the dictionaries as `prepare` would, and prints a message. They are not written yet: see [`save`].
pub fn make(config: &Config) -> Result<(WordDict, AnswerDict)> {
    let dict = &config.run.dict;
    let mut splits = Vec::new();
    for (name, of_split) in &config.run.data {
        splits.push(split::load_with(config, name, of_split, Split::load_whole).context("building the dictionaries")?);
    }
    let made = make_dictionaries(&splits, dict).with_context(|| config.path.display().to_string())?;
    let names: Vec<&str> = config.run.data.keys().map(String::as_str).collect();
    say!(
        "dictionaries: none yet, so built from {}, as `vqa prepare` would: {} words, {} answers (given at least {} \
         times)",
        names.join(", "),
        made.0.len(),
        made.1.len(),
        dict.min_answer_count
    );
    Ok(made)
}

/// An error rather than building the missing one: new words would not match old answers, nor old weights either of
/// them.
fn one_is_missing(missing: &Path, other: &Path) -> String {
    format!(
        "{}: no such file, but {} exists, and the two belong together: restore the missing one, or rebuild both with \
         `vqa prepare`",
        missing.display(),
        other.display()
    )
}

/// Writes dictionaries to the paths in the config.
pub fn save(config: &Config, words: &WordDict, answers: &AnswerDict) -> Result<()> {
    let dict = &config.run.dict;
    words.save(&dict.words)?;
    answers.save(&dict.answers)?;
    say!("dictionaries: wrote {} and {}", dict.words.display(), dict.answers.display());
    Ok(())
}
