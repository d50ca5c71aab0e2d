//! Functions shared by the commands that run a trained model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::Device;
use vqa_data::questions::Split;
use vqa_infer::report::{Report, Scores};
use vqa_infer::{Answers, Checkpoint, Ensemble, Error, Occlusion, OcclusionOptions, RankedAnswers, SplitWithModel};
use vqa_model::device::parse_device;
use vqa_train::distributed::check_same;

use crate::args::SplitArgs;
use crate::commands::split;
use crate::config::Config;
use crate::process_group::ProcessGroup;
use crate::progress::ProgressBar;
use crate::terminal::say;

/// Loads one checkpoint, or several as an ensemble, and the split from the config of the (first) checkpoint's run or
/// from another one.
pub fn open(checkpoints: &[PathBuf], args: &SplitArgs) -> Result<SplitWithModel> {
    open_on(checkpoints, args, args.device.as_deref().map(parse_device).transpose()?)
}

/// Like [`open`], but distributed if there are several processes.
pub fn open_together(checkpoints: &[PathBuf], args: &SplitArgs, group: &ProcessGroup) -> Result<SplitWithModel> {
    let device = args.device.as_deref().map(|name| group.device(name)).transpose()?;
    let split = open_on(checkpoints, args, device)?;
    group.join(None, Device::Cpu)?;
    // A single process need not read the features for a digest.
    let Some(sum) = group.sum() else { return Ok(split) };
    check_same(group.collective(), &[("the model, or the data, that is asked about", split.fingerprint()?)])?;
    Ok(split.shared(group.rank(), group.n_processes(), sum))
}

fn open_on(checkpoints: &[PathBuf], args: &SplitArgs, device: Option<Device>) -> Result<SplitWithModel> {
    let (first, others) = checkpoints.split_first().context("no --checkpoint")?;
    let ensemble = Ensemble::open(first, others, device)?;
    let (config, split) = split_of(ensemble.first(), &args.data, args.config.as_deref())?;
    let batch_size = args.batch_size.map(|size| size as usize);
    Ok(SplitWithModel::new(ensemble, split, config.split(&args.data)?, config.place(&args.data), batch_size)?)
}

/// Loads a split from the config of a checkpoint's run, or from another one.
pub fn split_of(checkpoint: &Checkpoint, data: &str, other: Option<&Path>) -> Result<(Config, Split)> {
    let config = match other {
        Some(other) => Config::load(other, &[])?,
        None => Config::load(&checkpoint.run().config(), &[])?,
    };
    let split = split::load_with(&config, data, config.split(data)?, Split::load_with)?;
    if let Some(n) = split.cut_from {
        let config = config.path.display();
        say!("{data}: {} of {n} questions, by limit or fraction of [data.{data}] in {config}", split.len());
    }
    Ok((config, split))
}

/// Checks that the answers to a split can be written to a results file, before anything is answered.
pub fn check_for_results(split: &SplitWithModel) -> Result<()> {
    split.dataset().split().check_for_results().with_context(|| split.place().to_owned())
}

/// Answers the full split, with a progress bar.
pub fn answer_all(split: &SplitWithModel) -> Result<Answers> {
    let progress = ProgressBar::new("answer", "questions", split.dataset().len() as u64);
    Ok(split.answer_all(&mut |n| progress.add(n))?)
}

/// The best answers to each question of the split, with a progress bar.
pub fn rank_all(split: &SplitWithModel, n_best: usize) -> Result<RankedAnswers> {
    let progress = ProgressBar::new("answer", "questions", split.dataset().len() as u64);
    Ok(split.rank_all(n_best, &mut |n| progress.add(n))?)
}

/// Answers the full split with every question asked about another image, with a progress bar.
pub fn answer_blind(split: &SplitWithModel) -> Result<Answers> {
    let progress = ProgressBar::new("blind", "questions", split.dataset().len() as u64);
    Ok(split.answer_blind(&mut |n| progress.add(n))?)
}

/// Answers the full split with each member of an ensemble alone, with a progress bar.
pub fn answer_by_each(split: &SplitWithModel) -> Result<Vec<Answers>> {
    let n_members = split.ensemble().members().count() as u64;
    let progress = ProgressBar::new("each", "questions", n_members * split.dataset().len() as u64);
    Ok(split.answer_by_each(&mut |n| progress.add(n))?)
}

/// Answers the full split, and again with some regions hidden, with a progress bar.
pub fn occlude(split: &SplitWithModel, options: OcclusionOptions) -> Result<Occlusion> {
    let progress = ProgressBar::new("occlude", "questions", split.dataset().len() as u64);
    Ok(split.occlude(options, &mut |n| progress.add(n))?)
}

/// The scores of a split's answers, for the head of a page, beside those of the blind model.
pub fn scores(split: &SplitWithModel, answers: &Answers) -> Result<Scores> {
    let progress = ProgressBar::new("blind", "questions", split.dataset().len() as u64);
    let blind = match split.answer_blind(&mut |n| progress.add(n)) {
        Ok(blind) => Some(blind),
        // There is only one image, so none to swap it for.
        Err(Error::Split { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Scores::of(answers, blind.as_ref(), &split.dataset().split().annotations))
}

/// Adds some questions to a report, with a progress bar; with `without_top`, also the answers with the most attended
/// region hidden.
pub fn explain(split: &SplitWithModel, questions: &[usize], without_top: bool, report: &mut Report) -> Result<()> {
    let progress = ProgressBar::new("draw", "questions", questions.len() as u64);
    Ok(split.explain(questions, without_top, report, &|n| progress.add(n))?)
}
