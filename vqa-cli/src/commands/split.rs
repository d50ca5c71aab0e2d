//! Reads splits of a config, with a progress bar.

use anyhow::{Context, Result};
use vqa_data::questions::{Split, SplitConfig};

use crate::config::Config;
use crate::progress::ProgressBar;

/// Reads the JSON files of a split with `load`: all of it, or the part that its config selects.
pub fn load_with(
    config: &Config,
    name: &str,
    split: &SplitConfig,
    load: fn(&SplitConfig, &(dyn Fn(u64) + Sync)) -> vqa_data::Result<Split>,
) -> Result<Split> {
    let progress = ProgressBar::new("read", "bytes", split.json_bytes());
    load(split, &|bytes| progress.add(bytes)).with_context(|| config.place(name))
}

/// Reads a split with its features.
#[cfg(feature = "torch")]
pub fn dataset(
    config: &Config,
    name: &str,
    words: &vqa_data::questions::WordDict,
    answers: &vqa_data::questions::AnswerDict,
) -> Result<vqa_data::batches::Dataset> {
    let split_config = config.split(name)?;
    let split = load_with(config, name, split_config, Split::load_with)?;
    let max_len = config.run.dict.max_question_len;
    vqa_data::batches::Dataset::open(split, split_config, words, answers, max_len).with_context(|| config.place(name))
}
