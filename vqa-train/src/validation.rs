//! Validation during training: scores a split.

use std::sync::atomic::Ordering;

use tch::{Kind, Tensor};
use vqa_model::feed::Feed;
use vqa_model::loss::{loss, n_in_mean};

use crate::distributed::agreement::{agree, any, sum};
use crate::error::Result;
use crate::trainer::{Event, Trainer};

/// The metrics of a validation. Scores are percentages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scores {
    pub(crate) loss: f64,
    pub(crate) score: f64,
    pub(crate) upper_bound: f64,
}

/// The number of values that a validation sums.
const N_FIGURES: usize = 5;

impl Trainer<'_> {
    /// Scores all of `val`. Returns `None` if the run was asked to stop.
    pub(crate) fn validate(&self, val: &Feed, on_event: &mut dyn FnMut(Event)) -> Result<Option<Scores>> {
        let (rank, world_size) = (self.collective.rank(), self.collective.world_size());
        let batches = agree(self.collective, self.validate_batches(val, on_event))?;
        let stopped = batches.len() < (val.n_batches() + world_size - 1 - rank) / world_size;
        if any(self.collective, stopped)? {
            return Ok(None);
        }
        // One entry for each batch, so that the totals do not depend on which process had which batch.
        let mut all = vec![[0.0; N_FIGURES]; val.n_batches()];
        batches.into_iter().enumerate().for_each(|(i, figures)| all[rank + i * world_size] = figures);
        sum(self.collective, all.as_flattened_mut())?;
        let [loss, n_in_means, score, upper_bound, n] = all.into_iter().fold([0.0; N_FIGURES], |mut sums, figures| {
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
            sums
        });
        Ok(Some(Scores {
            loss: loss / n_in_means.max(1.0),
            score: 100.0 * score / n,
            upper_bound: 100.0 * upper_bound / n,
        }))
    }

    /// Returns the sums of each of this process's batches, until it is asked to stop: loss, number of questions in the
    /// mean loss, score, upper bound, number of questions.
    fn validate_batches(&self, val: &Feed, on_event: &mut dyn FnMut(Event)) -> Result<Vec<[f64; N_FIGURES]>> {
        let (rank, world_size) = (self.collective.rank(), self.collective.world_size());
        // Losses and scores stay on the device, in float64, until all batches are done.
        let (mut on_device, mut figures) = (Vec::new(), Vec::new());
        for (index, batch) in val.epoch(0, 0).enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            for mut part in batch??.parts {
                let (input, targets) = val.tensors(&mut part);
                let logits = self.model.infer(&input).logits;
                let loss = loss(self.loss, &logits, &targets.dense(logits.size()[1])).to_kind(Kind::Double);
                let n_in_mean = n_in_mean(self.loss, &part.batch.targets) as f64;
                on_device.push(Tensor::stack(&[loss * n_in_mean, targets.total_score(&logits)], 0));
                figures.push([0.0, n_in_mean, 0.0, part.batch.targets.total_best(), part.batch.len() as f64]);
            }
            on_event(Event::Validation { batch: (rank + index * world_size) + 1, n_batches: val.n_batches() });
        }
        if on_device.is_empty() {
            return Ok(figures);
        }
        let of_device = Vec::<f64>::try_from(Tensor::cat(&on_device, 0)).expect("a flat tensor of float64");
        for (figures, of_device) in figures.iter_mut().zip(of_device.chunks_exact(2)) {
            (figures[0], figures[2]) = (of_device[0], of_device[1]);
        }
        Ok(figures)
    }
}
