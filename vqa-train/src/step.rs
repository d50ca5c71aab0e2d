//! The forward and backward passes of a step, and its loss and score, which the device may not have computed yet.
//!
//! A GPU runs asynchronously, and reading a value waits until it has caught up. So the losses and scores of several
//! steps are kept as tensors, and read at once.

use std::time::{Duration, Instant};

use tch::{Kind, Tensor};
use vqa_data::random::split_mix_64;
use vqa_model::feed::{FedBatch, Feed};
use vqa_model::loss::{BatchLoss, LossKind, n_in_mean, n_in_whole_mean};
use vqa_model::{DropoutSeed, VqaModel};

use crate::metrics::sums::Sums;
use crate::position::Position;

/// A step that was made.
pub(crate) struct Step {
    /// Where the run stands after it.
    pub(crate) position: Position,
    /// Its learning rate.
    pub(crate) lr: f64,
    /// Its durations and number of questions; also its loss and score, once they have been read.
    pub(crate) sums: Sums,
    /// The losses and scores of the parts of its batch, until they are read.
    parts: Vec<PartLoss>,
}

/// Loss and score of a part of a batch.
struct PartLoss {
    /// The number of questions in its mean loss.
    n_in_mean: usize,
    /// A scalar, the mean loss.
    loss: Tensor,
    /// A scalar, the sum of scores.
    score: Tensor,
    /// The first few questions.
    question_ids: Vec<u64>,
}

/// A loss that is NaN or infinite.
#[derive(Debug)]
pub(crate) struct NonFiniteLoss {
    pub(crate) loss: f64,
    /// Where the run stands after its step.
    pub(crate) position: Position,
    pub(crate) question_ids: Vec<u64>,
}

impl Step {
    /// Computes the forward and backward passes of a batch, part by part, and adds to the gradients of the parameters.
    /// The gradients are those of the mean loss over the full batch, even if `batch` is only this process's share of
    /// it. Dropout depends only on `seed` and the positions of the questions in the full batch. The caller gives the
    /// run's position after the step, and the learning rate. `complete` is called with the index of each group whose
    /// gradients are complete, as in [`TrainingPass::backward_in_groups`].
    ///
    /// [`TrainingPass::backward_in_groups`]: vqa_model::TrainingPass::backward_in_groups
    pub(crate) fn add_gradients(
        model: &dyn VqaModel,
        loss: LossKind,
        feed: &Feed,
        batch: FedBatch,
        seed: u64,
        (position, lr): (Position, f64),
        complete: &mut dyn FnMut(usize),
    ) -> Step {
        let n_parts = batch.parts.len();
        let mut sums = Sums { n_steps: 1, n_in_mean_loss: Some(0), ..Sums::default() };
        let mut parts = Vec::with_capacity(batch.parts.len());
        for (i, mut part) in batch.parts.into_iter().enumerate() {
            let tic = Instant::now();
            let (mut input, targets) = feed.tensors(&mut part);
            let first = part.batch.first;
            input.dropout = Some(DropoutSeed { seed, first });
            if first > 0 {
                // For models that use libtorch's own dropout. The training loop has seeded it for the first questions.
                tch::manual_seed(split_mix_64(seed ^ first as u64) as i64);
            }
            sums.data += tic.elapsed();

            let tic = Instant::now();
            let pass = model.train(&input);
            let BatchLoss { mean, grad_logits, total_score } = targets.loss(loss, &pass.output.logits);
            let n_in_mean = n_in_mean(loss, &part.batch.targets);
            let share = n_in_mean as f64 / n_in_whole_mean(loss, &part.batch.whole).max(1) as f64;
            sums.forward += tic.elapsed();

            let tic = Instant::now();
            let grad_logits = if share == 1.0 { grad_logits } else { grad_logits * share };
            match i + 1 == n_parts {
                true => pass.backward_in_groups(&grad_logits, complete),
                false => pass.backward(&grad_logits),
            }
            sums.backward += tic.elapsed();
            sums.n_questions += part.batch.len();
            let question_ids = part.batch.question_ids.iter().take(5).copied().collect();
            sums.n_in_mean_loss = Some(sums.n_in_mean_loss() + n_in_mean);
            parts.push(PartLoss { n_in_mean, loss: mean, score: total_score, question_ids });
        }
        Step { position, lr, sums, parts }
    }
}

impl Step {
    /// Creates a step of a batch in one part, from its mean loss and its sum of scores.
    pub(crate) fn of_one_part(
        (position, lr): (Position, f64),
        sums: Sums,
        (loss, score): (Tensor, Tensor),
        question_ids: Vec<u64>,
    ) -> Step {
        let n_in_mean = sums.n_in_mean_loss();
        Step { position, lr, sums, parts: vec![PartLoss { n_in_mean, loss, score, question_ids }] }
    }
}

/// The steps whose losses and scores have not been read yet, in order.
#[derive(Default)]
pub(crate) struct PendingSteps(Vec<Step>);

impl PendingSteps {
    /// Adds a step.
    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    /// Waits for the steps, and removes and returns them with their losses and scores. How long each of them took on a
    /// GPU is unknown, so each gets the mean.
    ///
    /// # Errors
    ///
    /// If a loss is NaN or infinite, the first such loss.
    pub(crate) fn read(&mut self) -> Result<Vec<Step>, NonFiniteLoss> {
        let mut steps = std::mem::take(&mut self.0);
        let scalars: Vec<Tensor> = steps
            .iter()
            .flat_map(|step| &step.parts)
            .flat_map(|part| [part.loss.to_kind(Kind::Double), part.score.to_kind(Kind::Double)])
            .collect();
        if scalars.is_empty() {
            return Ok(steps);
        }
        let tic = Instant::now();
        let values = Vec::<f64>::try_from(Tensor::stack(&scalars, 0)).expect("a flat tensor of float64");
        let mut durations = [Duration::ZERO, Duration::ZERO, tic.elapsed()];
        let mut values = values.chunks_exact(2);
        for Step { position, sums, parts, .. } in &mut steps {
            for PartLoss { n_in_mean, question_ids, .. } in std::mem::take(parts) {
                let Some(&[loss, score]) = values.next() else { panic!("two values for each part") };
                if !loss.is_finite() {
                    return Err(NonFiniteLoss { loss, position: *position, question_ids });
                }
                sums.loss += n_in_mean as f64 * loss;
                sums.score += score;
            }
            for (sum, duration) in durations.iter_mut().zip([sums.data, sums.forward, sums.backward]) {
                *sum += duration;
            }
        }
        let [data, forward, backward] = durations.map(|sum| sum / steps.len() as u32);
        for Step { sums, .. } in &mut steps {
            (sums.data, sums.forward, sums.backward) = (data, forward, backward);
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at: Position, lr: f64, losses: &[f32]) -> Step {
        let sums = Sums { n_steps: 1, n_questions: 10, forward: Duration::from_millis(2), ..Sums::default() };
        let n_in_mean = 10 / losses.len();
        let part = |&loss: &f32| PartLoss {
            n_in_mean,
            loss: Tensor::from(loss),
            score: Tensor::from(1.5f64),
            question_ids: vec![loss as u64],
        };
        Step { position: at, lr, sums, parts: losses.iter().map(part).collect() }
    }

    fn at(step: u64) -> Position {
        Position { epoch: 2, batch: step, step }
    }

    #[test]
    fn steps_are_read_in_order_and_once() {
        let mut unread = PendingSteps::default();
        assert!(unread.read().unwrap().is_empty());
        unread.push(step(at(1), 0.1, &[4.0]));
        unread.push(step(at(2), 0.2, &[1.0, 2.0]));
        let read = unread.read().unwrap();
        let found: Vec<_> = read.iter().map(|step| (step.position, step.lr, step.sums.loss, step.sums.score)).collect();
        assert_eq!(found, [(at(1), 0.1, 40.0, 1.5), (at(2), 0.2, 15.0, 3.0)]);
        assert!(read.iter().all(|step| step.sums.forward == Duration::from_millis(2)));
        assert!(unread.read().unwrap().is_empty());
    }

    #[test]
    fn the_first_part_that_diverged_is_found() {
        let mut unread = PendingSteps::default();
        for (i, losses) in [&[1.0, 2.0][..], &[3.0, f32::INFINITY], &[f32::NAN, f32::NAN]].into_iter().enumerate() {
            unread.push(step(at(i as u64), 0.1, losses));
        }
        let NonFiniteLoss { loss, position, question_ids } = unread.read().err().unwrap();
        assert_eq!((loss, position, question_ids), (f64::INFINITY, at(1), vec![u64::MAX]));
    }
}
