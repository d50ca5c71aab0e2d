//! The checkpoints of a run: one for each epoch, of which old ones may be removed.

use std::fs;

use tch::Tensor;
use tch::nn::VarStore;
use vqa_model::run::{CheckpointHeader, RunDir};
use vqa_model::weights::write_tensors;

use crate::config::TrainConfig;
use crate::error::Result;
use crate::run::state::{State, check_finite};

/// Writes the checkpoint of an epoch that ended at `step`. Refuses NaN and infinity.
pub(crate) fn save_checkpoint(run: &RunDir, header: &CheckpointHeader, vs: &VarStore, step: u64) -> Result<()> {
    let mut weights: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    check_finite(run, &weights, step)?;
    Ok(write_tensors(&run.checkpoint(header.epoch), &weights, header.to_header())?)
}

/// Removes the checkpoints that are not to be kept according to `keep_last` and `keep_best`.
pub(crate) fn remove_old_checkpoints(run: &RunDir, state: &State, config: &TrainConfig) -> Result<()> {
    if config.keep_last == 0 {
        return Ok(());
    }
    let best = state.best.filter(|_| config.keep_best).map(|best| best.epoch);
    let is_old = |&epoch: &u64| epoch.saturating_add(config.keep_last) <= state.position.epoch && Some(epoch) != best;
    for path in run.checkpoints()?.into_iter().filter(is_old).map(|epoch| run.checkpoint(epoch)) {
        fs::remove_file(&path).map_err(vqa_data::Error::io("remove", &path))?;
    }
    Ok(())
}
