//! Tries some steps of a run, to see that it works and how long it will take.

use std::time::{Duration, Instant};

use tch::Kind;

use crate::error::Result;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;
use crate::recorded_steps::RecordedSteps;
use crate::step::{PendingSteps, Step};
use crate::trainer::{Event, Trainer, dropout_seed};

/// The measurements of a rehearsal.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsal {
    /// Mean loss per question in the last step.
    pub loss: f64,
    /// Duration of the first step, which includes setting things up.
    pub first_step: Duration,
    /// Number of steps after the first.
    pub n_steps: u32,
    /// Mean duration of those steps.
    pub step: Duration,
    /// The part of that duration spent waiting for the batch.
    pub data: Duration,
    /// Duration of a validation batch, if there is one.
    pub val_batch: Option<Duration>,
    /// Size of the largest batch, in bytes.
    pub batch_bytes: usize,
    /// Size of the optimiser's own tensors, in bytes.
    pub optimizer_bytes: usize,
}

impl Trainer<'_> {
    /// Makes one training step, then more until they have taken `enough`, and validates two batches. Writes nothing,
    /// but changes the parameters. The only events are [`Event::Features`].
    ///
    /// # Errors
    ///
    /// Those of [`Trainer::run`], except for writing files.
    pub fn rehearse(&self, enough: Duration, on_event: &mut dyn FnMut(Event)) -> Result<Rehearsal> {
        /// The most steps to average over: more would not make the mean much more accurate.
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
        let mut unread = PendingSteps::default();
        let mut tic = Instant::now();
        while seen.n_steps == 0 || (seen.n_steps < MOST && seen.step < enough) {
            let Some(batch) = batches.next() else {
                // The epoch has ended, which may be after a single batch: begin the next one.
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
            // Reading a value that the step computed waits for a GPU to finish the step.
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
