//! Some steps of a run, to see that it works and how long it will take.

use std::time::{Duration, Instant};

use tch::Kind;

use crate::error::Result;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;
use crate::recorded_steps::RecordedSteps;
use crate::step::{Step, UnreadSteps};
use crate::trainer::{Event, Trainer, dropout_seed};

/// What a rehearsal saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsal {
    /// Mean loss of a question in the last step.
    pub loss: f64,
    /// Duration of the first step, which has more to set up than others.
    pub first_step: Duration,
    /// Steps after the first.
    pub n_steps: u32,
    /// Mean duration of those.
    pub step: Duration,
    /// The part of it that is waiting for the batch.
    pub data: Duration,
    /// Duration of a batch of validation, if there is any.
    pub val_batch: Option<Duration>,
    /// Bytes of the largest of the batches.
    pub batch_bytes: usize,
    /// Bytes of what the optimiser keeps of the parameters.
    pub optimizer_bytes: usize,
}

impl Trainer<'_> {
    /// Trains a step, then more until `enough` has passed, and validates two batches. Nothing is written; the
    /// parameters are not what they were afterwards. Of events there are only [`Event::Features`].
    ///
    /// # Errors
    ///
    /// Those of [`Trainer::run`] that have nothing to do with files.
    pub fn rehearse(&self, enough: Duration, on_event: &mut dyn FnMut(Event)) -> Result<Rehearsal> {
        /// More would not make the mean much better.
        const MOST: u32 = 20;
        let mut optimizer = Optimizer::new(self.vs.variables(), self.config);
        let mut seen = Rehearsal {
            loss: 0.0,
            first_step: Duration::ZERO,
            n_steps: 0,
            step: Duration::ZERO,
            data: Duration::ZERO,
            val_batch: None,
            batch_bytes: 0,
            optimizer_bytes: 0,
        };
        let mut train = self.train_feed(on_event)?;
        let mut recorded = RecordedSteps::new(self.model, self.loss, self.collective.world_size(), &mut train);
        let val = self.val_feed(on_event)?;
        let (mut epoch, mut of_epoch) = (1, 0);
        let mut batches = train.epoch(epoch, 0);
        let mut unread = UnreadSteps::default();
        let mut tic = Instant::now();
        while seen.n_steps == 0 || (seen.n_steps < MOST && seen.step < enough) {
            let Some(batch) = batches.next() else {
                // An epoch of one batch has no second step.
                epoch += 1;
                of_epoch = 0;
                batches = train.epoch(epoch, 0);
                continue;
            };
            let batch = batch??;
            of_epoch += 1;
            let data = tic.elapsed().saturating_sub(batch.waited);
            seen.batch_bytes = seen.batch_bytes.max(batch.bytes);
            let position = Position { epoch: epoch - 1, batch: of_epoch, step: optimizer.n_steps() + 1 };
            let (seed, at) = (dropout_seed(self.seed, optimizer.n_steps()), (position, optimizer.lr()));
            unread.push(recorded.make(&train, &batch, &mut optimizer, at).unwrap_or_else(|| {
                let made = Step::add_gradients(self.model, self.loss, &train, batch, seed, at, &mut |_| {});
                optimizer.apply();
                made
            }));
            seen.loss = self.read(&mut unread)?.iter().map(|step| step.sums.mean_loss()).sum();
            // On a GPU the step is over when something that it made is read.
            let _ = self.vs.trainable_variables().first().map(|parameter| parameter.sum(Kind::Float).double_value(&[]));
            if seen.first_step == Duration::ZERO {
                seen.first_step = tic.elapsed();
            } else {
                seen.n_steps += 1;
                seen.step += tic.elapsed();
                seen.data += data;
            }
            tic = Instant::now();
        }
        seen.step /= seen.n_steps;
        seen.data /= seen.n_steps;
        let state = optimizer.state();
        seen.optimizer_bytes = state.iter().map(|(_, tensor)| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum();
        drop(batches);
        if let Some(val) = val {
            tic = Instant::now();
            for batch in val.epoch(0, 0).take(2) {
                for mut part in batch??.parts {
                    let (input, _) = val.tensors(&mut part);
                    let _ = self.model.infer(&input).best_answers();
                }
                seen.val_batch = Some(tic.elapsed());
                tic = Instant::now();
            }
        }
        Ok(seen)
    }
}
