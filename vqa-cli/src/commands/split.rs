//! Splits of a config, read with a progress bar.

use anyhow::{Context, Result};
use vqa_data::{Split, SplitConfig};

use crate::config::Config;
use crate::terminal::Progress;

/// Reads the JSON files of a split, whole or as its config says.
pub fn load_with(
    config: &Config,
    name: &str,
    split: &SplitConfig,
    load: fn(&SplitConfig, &(dyn Fn(u64) + Sync)) -> vqa_data::Result<Split>,
) -> Result<Split> {
    let progress = Progress::new("read", "bytes", split.json_bytes());
    load(split, &|bytes| progress.add(bytes)).with_context(|| config.place(name))
}

/// Reads a split with its features.
#[cfg(feature = "torch")]
pub fn dataset(
    config: &Config,
    name: &str,
    words: &vqa_data::WordDict,
    answers: &vqa_data::AnswerDict,
) -> Result<vqa_data::Dataset> {
    let split_config = config.split(name)?;
    let split = load_with(config, name, split_config, Split::load_with)?;
    vqa_data::Dataset::open(split, split_config, words, answers, config.dict.max_question_len)
        .with_context(|| config.place(name))
}

/// Questions in a batch where none is learnt from: with no gradients to keep there is room for more, and larger batches share
/// more images and beginnings of questions.
#[cfg(feature = "torch")]
pub fn answering_batch_size(config: &Config) -> usize {
    2 * config.train.batch_size
}
