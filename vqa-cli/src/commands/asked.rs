//! What the commands that run a trained model have in common.

use anyhow::Result;
use vqa_data::questions::Split;
use vqa_infer::report::Report;
use vqa_infer::{Answers, Checkpoint, SplitWithModel};
use vqa_model::device::parse_device;

use crate::args::ModelArgs;
use crate::commands::split;
use crate::config::Config;
use crate::progress::ProgressBar;
use crate::terminal::say;

/// Loads the checkpoint, and the split from the run's config or another one.
pub fn open(args: &ModelArgs) -> Result<SplitWithModel> {
    let device = args.device.as_deref().map(parse_device).transpose()?;
    let checkpoint = Checkpoint::open(&args.checkpoint, device)?;
    let config = match &args.config {
        Some(other) => Config::load(other, &[])?,
        None => Config::load(&checkpoint.run().config(), &[])?,
    };
    let split_config = config.split(&args.data)?;
    let split = split::load_with(&config, &args.data, split_config, Split::load_with)?;
    if let Some(n) = split.cut_from {
        let (data, config) = (&args.data, config.path.display());
        say!("{data}: {} of {n} questions, by limit or fraction of [data.{data}] in {config}", split.len());
    }
    let batch_size = args.batch_size.map(|size| size as usize);
    Ok(SplitWithModel::new(checkpoint, split, split_config, config.place(&args.data), batch_size)?)
}

/// Answers the whole split, with a progress bar.
pub fn answer_all(split: &SplitWithModel) -> Result<Answers> {
    let progress = ProgressBar::new("answer", "questions", split.dataset().len() as u64);
    Ok(split.answer_all(&mut |n| progress.add(n))?)
}

/// Answers the whole split with every question asked about another image, with a progress bar.
pub fn answer_blind(split: &SplitWithModel) -> Result<Answers> {
    let progress = ProgressBar::new("blind", "questions", split.dataset().len() as u64);
    Ok(split.answer_blind(&mut |n| progress.add(n))?)
}

/// Adds some questions to a report, with a progress bar.
pub fn explain(split: &SplitWithModel, questions: &[usize], report: &mut Report) -> Result<()> {
    let progress = ProgressBar::new("draw", "questions", questions.len() as u64);
    Ok(split.explain(questions, report, &mut |n| progress.add(n))?)
}
