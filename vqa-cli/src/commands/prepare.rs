use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use vqa_data::batches::check_features;
use vqa_data::questions::{IndexMap, Split, SplitReport};

use crate::args::PrepareArgs;
use crate::commands::split;
use crate::config::Config;
use crate::terminal::print;

pub fn run(args: &PrepareArgs) -> Result<()> {
    let config = Config::load(&args.config.config, &args.config.set)?;
    let started = Instant::now();
    let prepared = prepare(&config)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let report = json!({
            "n_words": prepared.n_words, "n_answers": prepared.n_answers, "splits": prepared.splits, "seconds": seconds,
        });
        return print(&serde_json::to_string_pretty(&report)?);
    }
    let mut text = format!(
        "{} words, {} answers (given at least {} times), in {seconds:.1} s\n{:<12} {:>9} {:>8} {:>6} {:>14} \
         {:>16} {:>11}",
        prepared.n_words,
        prepared.n_answers,
        config.run.dict.min_answer_count,
        "split",
        "questions",
        "images",
        "cut",
        "unknown words",
        "without answer",
        "upper bound"
    );
    for (name, split) in &prepared.splits {
        let upper_bound = split.upper_bound.map_or_else(|| "-".to_owned(), |bound| format!("{bound:.2}"));
        text.push_str(&format!(
            "\n{name:<12} {:>9} {:>8} {:>6} {:>14} {:>16} {upper_bound:>11}",
            split.n_questions, split.n_images, split.n_cut, split.n_unknown_words, split.n_without_answer
        ));
    }
    text.push_str(&format!("\nwrote {} and {}", config.run.dict.words.display(), config.run.dict.answers.display()));
    print(&text)
}

/// The sizes of the dictionaries, and a report on each split encoded with them.
pub struct Prepared {
    pub n_words: usize,
    pub n_answers: usize,
    pub splits: IndexMap<String, SplitReport>,
}

/// Reads the JSON files of every split, checks that its features can be opened, and writes the dictionaries.
pub fn prepare(config: &Config) -> Result<Prepared> {
    if config.run.data.is_empty() {
        bail!("{}: no data splits: add [[data.train.composition]] with q_jsons and a_jsons", config.path.display());
    }
    if let Some(hint) = config.run.misnamed_val() {
        tracing::warn!("{}: {hint}", config.path.display());
    }
    for (name, split) in &config.run.data {
        check_features(split).with_context(|| config.place(name))?;
    }
    let mut splits = IndexMap::new();
    for (name, split) in &config.run.data {
        splits.insert(name.clone(), split::load_with(config, name, split, Split::load_whole)?);
    }
    let (words, answers, splits) = vqa_data::questions::prepare(splits, &config.run.data, &config.run.dict)
        .with_context(|| config.path.display().to_string())?;
    Ok(Prepared { n_words: words.len(), n_answers: answers.len(), splits })
}
