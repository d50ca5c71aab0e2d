use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::nn::VarStore;
use vqa_data::{Loader, split_mix_64};
use vqa_model::{Header, LossKind, ModelInput, VqaModel};

use crate::config::TrainConfig;
use crate::loss::{dense_targets, loss};
use crate::metrics::{EpochMetrics, Line, StepMetrics, Sums};
use crate::optim::Optimizer;
use crate::run_dir::{Progress, RunDir};
use crate::{Error, Result};

/// Trains a model on a loader's batches, validates it on another's, and keeps a checkpoint of every epoch.
///
/// On a CPU the same seed gives the same numbers: the loader's order depends on its seed and the epoch, and the
/// dropout of a step on `seed` and the step's number.
pub struct Trainer<'a> {
    /// The model, whose parameters are in `vs`.
    pub model: &'a dyn VqaModel,
    /// The parameters.
    pub vs: &'a VarStore,
    /// What the model's logits mean.
    pub loss: LossKind,
    /// The settings.
    pub config: &'a TrainConfig,
    /// Fixes dropout.
    pub seed: u64,
    /// Batches to train on.
    pub train: &'a Loader,
    /// Batches to validate on.
    pub val: Option<&'a Loader>,
    /// Where checkpoints, state and metrics go.
    pub run: &'a RunDir,
    /// Goes into the header of every checkpoint, beside the epoch and its scores.
    pub header: Header,
    /// When this becomes true, training stops after the step in progress.
    pub stop: &'a AtomicBool,
}

/// What a run reports while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// A training step was made.
    Step {
        /// Its figures alone; `step` counts from the start of the run.
        metrics: &'a StepMetrics,
        /// The batch in the epoch, counted from 1.
        batch: usize,
        /// Batches in the epoch.
        n_batches: usize,
    },
    /// A validation batch was scored.
    Validation {
        /// Counted from 1.
        batch: usize,
        /// Batches in the validation set.
        n_batches: usize,
    },
    /// An epoch is finished, and its checkpoint written.
    Epoch(&'a EpochMetrics),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs are done. The figures are of the last one; nothing if there was none left to do.
    Finished(Option<EpochMetrics>),
    /// It was asked to stop, in the epoch after the finished ones.
    Stopped(Progress),
}

/// Figures of a validation. Scores are percentages.
#[derive(Debug, Clone, Copy, Default)]
struct Scores {
    loss: f64,
    score: f64,
    upper_bound: f64,
}

impl Trainer<'_> {
    /// Trains from where the run directory stands: from the start, or after the last finished epoch.
    ///
    /// # Errors
    ///
    /// When data cannot be read, a file not be written, or the loss becomes NaN or infinite. Checkpoints of finished
    /// epochs are intact then.
    pub fn run(&self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let device = self.vs.device();
        let mut optimizer = Optimizer::new(self.vs.variables(), self.config);
        let mut progress = self.run.restore(self.vs, &mut optimizer)?;
        let mut metrics_file = self.run.open_metrics(progress)?;
        let mut last = None;

        while progress.epoch < self.config.n_epochs {
            let started = Instant::now();
            let epoch = progress.epoch + 1;
            let mut step = progress.step;
            let (mut of_epoch, mut of_interval) = (Sums::default(), Sums::default());
            let mut batches = self.train.epoch(epoch, 0);
            for index in 1.. {
                let tic = Instant::now();
                let Some(batch) = batches.next() else { break };
                let batch = batch?;
                let input = ModelInput::from_batch(&batch, device);
                let data = tic.elapsed();

                let tic = Instant::now();
                tch::manual_seed(dropout_seed(self.seed, step) as i64);
                let lr = optimizer.lr();
                let output = self.model.forward(&input, true);
                let targets = dense_targets(&batch.targets, output.logits.size()[1], device);
                let loss = loss(self.loss, &output.logits, &targets);
                let loss_value = loss.double_value(&[]);
                if !loss_value.is_finite() {
                    let question_ids = batch.question_ids.iter().take(5).copied().collect();
                    return Err(Error::Diverged { loss: loss_value, epoch, batch: index, question_ids });
                }
                let forward = tic.elapsed();

                let tic = Instant::now();
                optimizer.step(&loss);
                let backward = tic.elapsed();

                step += 1;
                let score = batch.targets.total_score(&output.best_answers());
                let n_questions = batch.len();
                let loss = loss_value * n_questions as f64;
                let sums = Sums { n_steps: 1, n_questions, loss, score, data, forward, backward };
                of_epoch.add(sums);
                of_interval.add(sums);
                let metrics = sums.metrics(epoch, step, lr);
                on_event(Event::Step { metrics: &metrics, batch: index, n_batches: self.train.n_batches() });
                if step.is_multiple_of(self.config.log_every) {
                    metrics_file.append(&Line::Step(of_interval.metrics(epoch, step, lr)))?;
                    of_interval = Sums::default();
                }
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(Outcome::Stopped(Progress { epoch: progress.epoch, step }));
                }
            }

            let mut val_scores = None;
            if let Some(val) = self.val.filter(|_| epoch.is_multiple_of(self.config.val_freq)) {
                val_scores = self.validate(val, on_event)?;
                if val_scores.is_none() {
                    return Ok(Outcome::Stopped(Progress { epoch: progress.epoch, step }));
                }
            }
            let metrics = EpochMetrics {
                epoch,
                step: Some(step),
                train_loss: of_epoch.mean_loss(),
                train_score: of_epoch.percent(),
                val_loss: val_scores.map(|scores| scores.loss),
                val_score: val_scores.map(|scores| scores.score),
                val_upper_bound: val_scores.map(|scores| scores.upper_bound),
                seconds: started.elapsed().as_secs_f64(),
            };
            progress = Progress { epoch, step };
            // The line first: a resume drops lines of epochs that are not saved, and cannot make up missing ones.
            metrics_file.append(&Line::Epoch(metrics.clone()))?;
            self.run.draw_curves()?;
            self.run.save(progress, self.vs, &mut optimizer, self.header(&metrics))?;
            on_event(Event::Epoch(&metrics));
            last = Some(metrics);
        }
        Ok(Outcome::Finished(last))
    }

    /// Scores all of `val`; nothing if the run was asked to stop.
    fn validate(&self, val: &Loader, on_event: &mut dyn FnMut(Event)) -> Result<Option<Scores>> {
        let mut sums = Scores::default();
        for (index, batch) in val.epoch(0, 0).enumerate() {
            let batch = batch?;
            let input = ModelInput::from_batch(&batch, self.vs.device());
            let output = tch::no_grad(|| self.model.forward(&input, false));
            let targets = dense_targets(&batch.targets, output.logits.size()[1], self.vs.device());
            sums.loss += loss(self.loss, &output.logits, &targets).double_value(&[]) * batch.len() as f64;
            sums.score += batch.targets.total_score(&output.best_answers());
            sums.upper_bound += batch.targets.total_best();
            on_event(Event::Validation { batch: index + 1, n_batches: val.n_batches() });
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let n = val.dataset().len() as f64;
        Ok(Some(Scores {
            loss: sums.loss / n,
            score: 100.0 * sums.score / n,
            upper_bound: 100.0 * sums.upper_bound / n,
        }))
    }

    fn header(&self, metrics: &EpochMetrics) -> Header {
        let mut header = self.header.clone();
        let mut add = |key: &str, value: String| header.insert(key.to_owned(), value);
        add("epoch", metrics.epoch.to_string());
        add("train_loss", metrics.train_loss.to_string());
        add("train_score", metrics.train_score.to_string());
        if let (Some(score), Some(upper_bound)) = (metrics.val_score, metrics.val_upper_bound) {
            add("val_score", score.to_string());
            add("val_upper_bound", upper_bound.to_string());
        }
        header
    }
}

/// The seed of a step's dropout: a function of the run's seed and the step alone, so that a resumed run draws what the
/// uninterrupted one would have.
fn dropout_seed(seed: u64, step: u64) -> u64 {
    split_mix_64(seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
