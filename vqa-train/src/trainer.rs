//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::batches::Loader;
use vqa_data::random::split_mix_64;
use vqa_model::feed::{FeaturesOnDevice, Feed, FeedOptions, Precision, allow_tf32};
use vqa_model::loss::{LossKind, loss, n_in_mean};
use vqa_model::memory::or_out_of_memory;
use vqa_model::run::{CheckpointHeader, RunDir};
use vqa_model::{DataDims, VqaModel};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::metrics::file::{MetricsFile, draw_curves};
use crate::metrics::lines::{EpochMetrics, Line, StepMetrics};
use crate::metrics::sums::Sums;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;
use crate::recorded_steps::RecordedSteps;
use crate::run::checkpoints::{remove_old_checkpoints, save_checkpoint};
use crate::run::state::{Best, State, saved_files};
use crate::step::{NonFiniteLoss, Step, UnreadSteps};

/// Trains a model on a loader's batches, validates it on another's, and keeps a checkpoint of every epoch.
///
/// On a CPU the same seed gives the same values, however often the run was stopped or killed in between: the loader's
/// order depends on its seed and the epoch, the dropout of a step on `seed` and the step's number, and the rest is in
/// the state that the run directory keeps. Dropout's random numbers come from libtorch's generator, which a process has
/// one of, so that two trainers must not run at the same time in one process.
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
    /// When this becomes true, training stops after the step in progress, and saves its state.
    pub stop: &'a AtomicBool,
}

/// What a run reports while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// Features were put on the device, where they stay.
    Features {
        /// Images done.
        n: usize,
        /// Images in all.
        of: usize,
    },
    /// A training step was made. On a GPU such events come together, when `log_every` steps are made.
    Step {
        /// The metrics of this step alone, its durations on a GPU being means; `step` counts from the start of the run.
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
    /// All epochs are done, or `patience` is at its end.
    Finished {
        /// Where the run stands.
        position: Position,
        /// The metrics of the last epoch; nothing if there was none left to train.
        last: Option<EpochMetrics>,
        /// The best epoch; nothing if none was validated.
        best: Option<Best>,
    },
    /// It was asked to stop, and its state is saved.
    Stopped(Position),
}

/// Figures of a validation. Scores are percentages.
#[derive(Debug, Clone, Copy, Default)]
struct Scores {
    loss: f64,
    score: f64,
    upper_bound: f64,
}

/// The flag of a trainer that is never stopped.
static NEVER: AtomicBool = AtomicBool::new(false);

impl<'a> Trainer<'a> {
    /// A trainer without the parts that may be left out: it validates nothing, it is never stopped, its seed is 0 and
    /// its loss logistic. For others, fill in their fields: `Trainer { val: Some(&val), ..Trainer::new(…) }`.
    pub fn new(
        model: &'a dyn VqaModel,
        vs: &'a VarStore,
        config: &'a TrainConfig,
        train: &'a Loader,
        run: &'a RunDir,
    ) -> Trainer<'a> {
        let loss = LossKind::Logistic;
        Trainer { model, vs, loss, config, seed: 0, train, val: None, run, stop: &NEVER }
    }

    /// Trains from where the run directory stands: from the start, or after the last saved step.
    ///
    /// # Errors
    ///
    /// When data cannot be read, a file not be written, the loss or a weight becomes NaN or infinite, or memory is
    /// full. What was saved before is intact then.
    pub fn run(&self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        or_out_of_memory(|| self.run_epochs(on_event)).unwrap_or_else(|_| {
            let batch_size = self.train.options().batch_size;
            let features_on_device = match self.config.features_on_device {
                FeaturesOnDevice::Auto => self.vs.device().is_cuda(),
                FeaturesOnDevice::Always => true,
                FeaturesOnDevice::Never => false,
            };
            Err(Error::OutOfMemory { batch_size, features_on_device, saved: saved_files(self.run) })
        })
    }

    /// The batches of a loader, for the device that the model is on.
    pub(crate) fn feed(&self, loader: &Loader, n_parts: usize, on_event: &mut dyn FnMut(Event)) -> Result<Feed> {
        let device = self.vs.device();
        let TrainConfig { precision, features_on_device, .. } = *self.config;
        if device.is_cuda() && !allow_tf32(precision == Precision::Tf32) {
            tracing::warn!("this libtorch cannot be told whether to compute in TF32");
        }
        let options = FeedOptions { device, kind: precision.kind(), n_parts, features_on_device };
        Ok(Feed::new(loader, options, &mut |n, of| on_event(Event::Features { n, of }))?)
    }

    fn run_epochs(&self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let mut optimizer = Optimizer::new(self.vs.variables(), self.config);
        let mut state = State::restore(
            self.run,
            self.train.dataset(),
            self.val.map(|val| &**val.dataset()),
            self.vs,
            &mut optimizer,
        )?;
        let mut metrics_file = MetricsFile::open(self.run, state.position)?;
        remove_old_checkpoints(self.run, &state, self.config)?;
        let mut train = self.feed(self.train, self.config.accumulate, on_event)?;
        let mut recorded = RecordedSteps::new(self.model, self.loss, &mut train);
        let val = self.val.map(|val| self.feed(val, 1, on_event)).transpose()?;
        let mut last = None;

        while state.position.epoch < self.config.n_epochs && !state.is_out_of_patience(self.config.patience) {
            let epoch = state.position.epoch + 1;
            let mut batches = train.epoch(epoch, state.position.batch as usize);
            let mut unread = UnreadSteps::default();
            loop {
                let tic = Instant::now();
                let Some(batch) = batches.next() else { break };
                let batch = batch??;
                let data = tic.elapsed().saturating_sub(batch.waited);

                tch::manual_seed(dropout_seed(self.seed, state.position.step) as i64);
                let lr = optimizer.lr();
                let after = state.position.after_step();
                let mut made = recorded.make(&train, &batch, &mut optimizer, (after, lr)).unwrap_or_else(|| {
                    let made = Step::add_gradients(self.model, self.loss, &train, batch, (after, lr));
                    optimizer.apply();
                    made
                });
                made.sums.data += data;
                made.sums.backward += tic.elapsed().saturating_sub(made.sums.duration());
                state.position = after;
                unread.push(made);

                let step = state.position.step;
                let logs = step.is_multiple_of(self.config.log_every);
                if logs || self.vs.device() == Device::Cpu {
                    self.report(&mut unread, &mut state, on_event)?;
                }
                if logs {
                    metrics_file.append(&Line::Step(state.of_interval.metrics(epoch, step, lr)))?;
                    state.of_interval = Sums::default();
                }
                let stop = self.stop.load(Ordering::Relaxed);
                // Never, if it is 0.
                if stop || step.is_multiple_of(self.config.checkpoint_every) {
                    self.report(&mut unread, &mut state, on_event)?;
                    self.save(&state, &mut metrics_file, &optimizer)?;
                }
                if stop {
                    return Ok(Outcome::Stopped(state.position));
                }
            }
            self.report(&mut unread, &mut state, on_event)?;

            let tic = Instant::now();
            let mut val_scores = None;
            if let Some(val) = val.as_ref().filter(|_| epoch.is_multiple_of(self.config.val_freq)) {
                val_scores = optimizer.with_average(|| self.validate(val, on_event))?;
                if val_scores.is_none() {
                    self.save(&state, &mut metrics_file, &optimizer)?;
                    return Ok(Outcome::Stopped(state.position));
                }
            }
            let metrics = EpochMetrics {
                epoch,
                step: Some(state.position.step),
                train_loss: state.of_epoch.mean_loss(),
                train_score: state.of_epoch.percent(),
                val_loss: val_scores.map(|scores| scores.loss),
                val_score: val_scores.map(|scores| scores.score),
                val_upper_bound: val_scores.map(|scores| scores.upper_bound),
                seconds: (state.of_epoch.duration() + tic.elapsed()).as_secs_f64(),
            };
            state.finish_epoch(metrics.val_score);
            metrics_file.append(&Line::Epoch(metrics.clone()))?;
            draw_curves(self.run)?;
            let header = self.header(&metrics);
            optimizer.with_average(|| save_checkpoint(self.run, &header, self.vs, state.position.step))?;
            self.save(&state, &mut metrics_file, &optimizer)?;
            remove_old_checkpoints(self.run, &state, self.config)?;
            on_event(Event::Epoch(&metrics));
            last = Some(metrics);
        }
        Ok(Outcome::Finished { position: state.position, last, best: state.best })
    }

    /// The steps that are made, with their losses and scores; waits for a GPU.
    pub(crate) fn read(&self, unread: &mut UnreadSteps) -> Result<Vec<Step>> {
        match unread.read() {
            Ok(steps) => Ok(steps),
            Err(NonFiniteLoss { loss, position, question_ids }) => {
                let (epoch, batch, step) = (position.epoch + 1, position.batch, position.step);
                Err(Error::Diverged { loss, epoch, batch, step, question_ids, saved: saved_files(self.run) })
            }
        }
    }

    /// Adds the steps that are made to the state, and reports them.
    fn report(&self, unread: &mut UnreadSteps, state: &mut State, on_event: &mut dyn FnMut(Event)) -> Result<()> {
        for Step { position, lr, sums, .. } in self.read(unread)? {
            state.add(sums);
            let metrics = sums.metrics(position.epoch + 1, position.step, lr);
            let batch = position.batch as usize;
            on_event(Event::Step { metrics: &metrics, batch, n_batches: self.train.n_batches() });
        }
        Ok(())
    }

    /// Saves where the run stands. The metrics first: a resume drops lines after the state, and cannot make up missing
    /// ones.
    fn save(&self, state: &State, metrics_file: &mut MetricsFile, optimizer: &Optimizer) -> Result<()> {
        metrics_file.sync()?;
        state.save(self.run, self.vs, optimizer)
    }

    /// Scores all of `val`; nothing if the run was asked to stop.
    fn validate(&self, val: &Feed, on_event: &mut dyn FnMut(Event)) -> Result<Option<Scores>> {
        // On the device, in float64.
        let mut sums = [0.0, 0.0].map(|zero: f64| Tensor::from(zero).to_device(self.vs.device()));
        let (mut n, mut n_in_means, mut upper_bound) = (0, 0, 0.0);
        for (index, batch) in val.epoch(0, 0).enumerate() {
            for mut part in batch??.parts {
                let (input, targets) = val.tensors(&mut part);
                let logits = self.model.infer(&input).logits;
                let loss = loss(self.loss, &logits, &targets.dense(logits.size()[1])).to_kind(Kind::Double);
                let n_in_mean = n_in_mean(self.loss, &part.batch.targets);
                let _ = sums[0].g_add_(&(loss * n_in_mean as f64));
                n_in_means += n_in_mean;
                let _ = sums[1].g_add_(&targets.total_score(&logits));
                upper_bound += part.batch.targets.total_best();
                n += part.batch.len();
            }
            on_event(Event::Validation { batch: index + 1, n_batches: val.n_batches() });
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let n = n as f64;
        let [loss, score] = sums.map(|sum| sum.double_value(&[]));
        let loss = loss / n_in_means.max(1) as f64;
        Ok(Some(Scores { loss, score: 100.0 * score / n, upper_bound: 100.0 * upper_bound / n }))
    }

    fn header(&self, metrics: &EpochMetrics) -> CheckpointHeader {
        CheckpointHeader {
            epoch: metrics.epoch,
            train_loss: metrics.train_loss,
            train_score: metrics.train_score,
            val_score: metrics.val_score,
            val_upper_bound: metrics.val_upper_bound,
            dims: DataDims::of(self.train.dataset()),
            extractor: self.train.dataset().extractor().cloned(),
        }
    }
}

/// The seed of a step's dropout: a function of the run's seed and the step alone, so that a resumed run draws what the
/// uninterrupted one would have.
fn dropout_seed(seed: u64, step: u64) -> u64 {
    split_mix_64(seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
