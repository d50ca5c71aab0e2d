//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::nn::VarStore;
use tch::{Device, Tensor};
use vqa_data::batches::{Loader, Share};
use vqa_data::random::split_mix_64;
use vqa_model::feed::{FeaturesOnDevice, FedBatch, Feed, FeedOptions, Precision, allow_tf32};
use vqa_model::loss::LossKind;
use vqa_model::memory::or_out_of_memory;
use vqa_model::run::{CheckpointHeader, RunDir};
use vqa_model::{DataDims, VqaModel};

use crate::config::TrainConfig;
use crate::distributed::agreement::{agree, any, check_same};
use crate::distributed::collective::{Collective, SingleProcess};
use crate::error::{Error, Result};
use crate::metrics::file::{MetricsFile, draw_curves};
use crate::metrics::lines::{EpochMetrics, Line, StepMetrics};
use crate::metrics::sums::{Sums, add_up};
use crate::optim::optimizer::Optimizer;
use crate::position::Position;
use crate::recorded_steps::RecordedSteps;
use crate::run::checkpoints::{remove_old_checkpoints, save_checkpoint};
use crate::run::state::{Best, State, saved_files};
use crate::step::{NonFiniteLoss, PendingSteps, Step};

/// Trains a model on a loader's batches, validates it on another's, and writes a checkpoint for every epoch.
///
/// On a CPU the same seed gives the same values, however often the run is stopped or killed in between: the loader's
/// order depends on its seed and the epoch, the dropout of a step depends on `seed` and the step's number, and the rest
/// is in the state that is saved in the run's directory. Dropout may draw from libtorch's generator, of which a process
/// has only one, so two trainers must not run at the same time in one process.
pub struct Trainer<'a> {
    /// The model, whose parameters are in `vs`.
    pub model: &'a dyn VqaModel,
    /// The parameters.
    pub vs: &'a VarStore,
    /// The loss, which defines what the model's logits mean.
    pub loss: LossKind,
    /// The settings.
    pub config: &'a TrainConfig,
    /// The seed of dropout.
    pub seed: u64,
    /// Batches to train on.
    pub train: &'a Loader,
    /// Batches to validate on.
    pub val: Option<&'a Loader>,
    /// The directory for checkpoints, state and metrics.
    pub run: &'a RunDir,
    /// When this becomes true, training stops after the step in progress, and saves its state.
    pub stop: &'a AtomicBool,
    /// The processes that train the model. The trainers in all of them must be the same except for this field. Each
    /// process trains on its share of the batches. Only process 0 writes to `run`, from which all resume.
    pub collective: &'a dyn Collective,
}

/// Progress that a run reports.
#[derive(Debug)]
pub enum Event<'a> {
    /// Features were copied to the device, where they stay.
    Features {
        /// Number of images copied so far.
        n: usize,
        /// Total number of images.
        of: usize,
    },
    /// A training step was made. On a GPU these events are sent in bursts, at least every `log_every` steps.
    Step {
        /// The metrics of this step alone, except that on a GPU its durations are means over the burst. `step` counts
        /// from the start of the run.
        metrics: &'a StepMetrics,
        /// The index of the batch in the epoch, counted from 1.
        batch: usize,
        /// Batches in the epoch.
        n_batches: usize,
    },
    /// A validation batch was scored.
    Validation {
        /// The index of the batch, counted from 1.
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
    /// All epochs are done, or `patience` is exhausted.
    Finished {
        /// Where the run stands.
        position: Position,
        /// The metrics of the last epoch; `None` if no epoch was left to train.
        last: Option<EpochMetrics>,
        /// The best epoch; `None` if none was validated.
        best: Option<Best>,
        /// Whether `patience` is exhausted.
        is_out_of_patience: bool,
    },
    /// It was asked to stop, and its state is saved.
    Stopped(Position),
}

/// The stop flag of a trainer that is never stopped.
static NEVER: AtomicBool = AtomicBool::new(false);

impl<'a> Trainer<'a> {
    /// Creates a trainer without the optional parts: it has no validation, is never stopped, has seed 0 and the
    /// logistic loss, and is the only process. To change these, set the fields:
    /// `Trainer { val: Some(&val), ..Trainer::new(…) }`.
    pub fn new(
        model: &'a dyn VqaModel,
        vs: &'a VarStore,
        config: &'a TrainConfig,
        train: &'a Loader,
        run: &'a RunDir,
    ) -> Trainer<'a> {
        let loss = LossKind::Logistic;
        Trainer { model, vs, loss, config, seed: 0, train, val: None, run, stop: &NEVER, collective: &SingleProcess }
    }

    /// Trains from the state in the run's directory, or from the start if there is none.
    ///
    /// # Errors
    ///
    /// When data cannot be read, a file cannot be written, the loss or a weight becomes NaN or infinite, memory is
    /// full, or another process fails. Everything that was saved before stays intact.
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

    /// Returns the feed of the batches to train on, to the model's device: this process's share of each batch.
    pub(crate) fn train_feed(&self, on_event: &mut dyn FnMut(Event)) -> Result<Feed> {
        let share = match (self.collective.rank(), self.collective.world_size()) {
            (_, 1) => Share::All,
            (process, of) => Share::OfEachBatch { process, of },
        };
        let mut feed = self.feed(&self.train.with_share(share), self.config.accumulate, on_event)?;
        feed.load_loss();
        if let (Precision::Bf16, Some(shared)) = (self.config.precision, self.model.shared_states()) {
            feed.order_batches(shared);
        }
        Ok(feed)
    }

    /// Returns the feed of the batches to validate on: this process's share of the batches.
    pub(crate) fn val_feed(&self, on_event: &mut dyn FnMut(Event)) -> Result<Option<Feed>> {
        let (process, of) = (self.collective.rank(), self.collective.world_size());
        let share = Share::OfBatches { process, of };
        self.val.map(|val| self.feed(&val.with_share(share), 1, on_event)).transpose()
    }

    fn feed(&self, loader: &Loader, n_parts: usize, on_event: &mut dyn FnMut(Event)) -> Result<Feed> {
        let device = self.vs.device();
        let TrainConfig { precision, features_on_device, .. } = *self.config;
        if device.is_cuda() && !allow_tf32(precision == Precision::Tf32) {
            tracing::warn!("this libtorch cannot be told whether to compute in TF32");
        }
        let options = FeedOptions { device, kind: precision.kind(), n_parts, features_on_device };
        Ok(Feed::new(loader, options, &mut |n, of| on_event(Event::Features { n, of }))?)
    }

    fn run_epochs(&self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let collective = self.collective;
        let mut optimizer = Optimizer::new(self.vs.variables(), self.config);
        let mut state = agree(collective, self.restore(&mut optimizer))?;
        self.align(&mut state)?;
        let opened = self.on_first(|| {
            let metrics_file = MetricsFile::open(self.run, state.position)?;
            remove_old_checkpoints(self.run, &state, self.config)?;
            Ok(metrics_file)
        });
        let mut metrics_file = agree(collective, opened)?;
        let mut train = agree(collective, self.train_feed(on_event))?;
        let mut recorded = RecordedSteps::new(self.model, self.loss, collective.world_size(), &mut train);
        let val = agree(collective, self.val_feed(on_event))?;
        let mut last = None;

        while state.position.epoch < self.config.n_epochs && !state.is_out_of_patience(self.config.patience) {
            let epoch = state.position.epoch + 1;
            let mut batches = train.epoch(epoch, state.position.batch as usize);
            let mut unread = PendingSteps::default();
            loop {
                let tic = Instant::now();
                let batch = batches.next().transpose().map_err(Error::from).and_then(|batch| Ok(batch.transpose()?));
                let data = tic.elapsed();
                let Some(batch) = agree(collective, batch)? else { break };
                let agreeing = tic.elapsed() - data;
                // The time during which the feed waited for the GPU does not count as waiting for data.
                let data = data.saturating_sub(batch.waited);

                let seed = dropout_seed(self.seed, state.position.step);
                tch::manual_seed(seed as i64);
                let lr = optimizer.lr();
                let after = state.position.after_step();
                let mut made = match recorded.make(&train, &batch, &mut optimizer, (after, lr)) {
                    Some(made) => made,
                    None => self.make_step(&train, batch, seed, &mut optimizer, (after, lr))?,
                };
                made.sums.data += data;
                if collective.world_size() > 1 {
                    made.sums.all_reduce += agreeing;
                }
                // Includes the remaining time, so that the durations of a step add up to the elapsed time.
                made.sums.backward += tic.elapsed().saturating_sub(made.sums.duration());
                state.position = after;
                unread.push(made);

                let step = state.position.step;
                let logs = step.is_multiple_of(self.config.log_every);
                if logs || self.vs.device() == Device::Cpu {
                    self.report(&mut unread, &mut state, on_event)?;
                }
                if logs {
                    let line = Line::Step(state.of_interval.metrics(epoch, step, lr));
                    agree(collective, metrics_file.as_mut().map_or(Ok(()), |file| file.append(&line)))?;
                    state.of_interval = Sums::default();
                }
                let stop = any(collective, self.stop.load(Ordering::Relaxed))?;
                // No step is a multiple of 0, so with `checkpoint_every` = 0 none saves.
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
            // Finite weights can be so large that only the loss shows it. They must not be saved.
            let checked = self.on_first(|| val_scores.map_or(Ok(()), |scores| self.check_loss(scores.loss, &state)));
            agree(collective, checked)?;
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
            let written = self.on_first(|| {
                metrics_file.as_mut().map_or(Ok(()), |file| file.append(&Line::Epoch(metrics.clone())))?;
                draw_curves(self.run)?;
                let header = self.header(&metrics);
                optimizer.with_average(|| save_checkpoint(self.run, &header, self.vs, state.position.step))
            });
            agree(collective, written)?;
            self.save(&state, &mut metrics_file, &optimizer)?;
            agree(collective, self.on_first(|| remove_old_checkpoints(self.run, &state, self.config)))?;
            on_event(Event::Epoch(&metrics));
            last = Some(metrics);
        }
        let is_out_of_patience = state.is_out_of_patience(self.config.patience);
        Ok(Outcome::Finished { position: state.position, last, best: state.best, is_out_of_patience })
    }

    /// Makes a step without recording it.
    fn make_step(
        &self,
        train: &Feed,
        batch: FedBatch,
        seed: u64,
        optimizer: &mut Optimizer,
        at: (Position, f64),
    ) -> Result<Step> {
        if self.collective.world_size() == 1 {
            let made = Step::add_gradients(self.model, self.loss, train, batch, seed, at, &mut |_| {});
            optimizer.apply();
            return Ok(made);
        }
        // Complete gradients are sent while the rest is still computed.
        let mut sums = optimizer.gradient_sums(self.collective, self.model.gradient_order());
        let mut begun = Ok(());
        let mut made = Step::add_gradients(self.model, self.loss, train, batch, seed, at, &mut |number| {
            if begun.is_ok() {
                begun = sums.begin(number);
            }
        });
        begun?;
        let tic = Instant::now();
        sums.finish()?;
        made.sums.all_reduce = tic.elapsed();
        optimizer.apply();
        Ok(made)
    }

    /// Runs `work` in process 0 only.
    fn on_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        (self.collective.rank() == 0).then(work).transpose()
    }

    fn restore(&self, optimizer: &mut Optimizer) -> Result<State> {
        let val = self.val.map(|val| &**val.dataset());
        State::restore(self.run, self.train.dataset(), val, self.vs, self.collective.world_size(), optimizer)
    }

    /// Makes sure that all processes begin with the same settings, data and weights.
    fn align(&self, state: &mut State) -> Result<()> {
        if self.collective.world_size() == 1 {
            return Ok(());
        }
        let config = toml::to_string(self.config).expect("a config can be written as TOML");
        let device = if self.vs.device().is_cuda() { "a GPU" } else { "a CPU" };
        let place = match state.position.step {
            0 => "nothing".to_owned(),
            step => format!("the state after step {step}"),
        };
        let values = [
            ("[train] of the config", config),
            ("the seed", self.seed.to_string()),
            ("the training and validation data", state.data()),
            ("what is found in out_dir to resume from", place),
            ("the kind of device", device.to_owned()),
        ];
        check_same(self.collective, &values)?;
        let mut variables: Vec<(String, Tensor)> = self.vs.variables().into_iter().collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        variables.into_iter().try_for_each(|(_, variable)| self.collective.broadcast(&mut variable.detach(), 0))
    }

    /// Returns the steps that have been made, with their losses and scores. Waits for a GPU.
    pub(crate) fn read(&self, unread: &mut PendingSteps) -> Result<Vec<Step>> {
        match unread.read() {
            Ok(steps) => Ok(steps),
            Err(NonFiniteLoss { loss, position, question_ids }) => {
                let (epoch, batch, step) = (position.epoch + 1, position.batch, position.step);
                Err(Error::Diverged { loss, epoch, batch, step, question_ids, saved: saved_files(self.run) })
            }
        }
    }

    /// Fails if the loss of the validation after an epoch is NaN or infinite.
    fn check_loss(&self, loss: f64, state: &State) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let Position { epoch, step, .. } = state.position;
        Err(Error::ValidationDiverged { loss, epoch: epoch + 1, step, saved: saved_files(self.run) })
    }

    /// Adds the steps that have been made to the state, and reports them.
    fn report(&self, unread: &mut PendingSteps, state: &mut State, on_event: &mut dyn FnMut(Event)) -> Result<()> {
        let mut steps = agree(self.collective, self.read(unread))?;
        let sums: Vec<&mut Sums> = steps.iter_mut().map(|step| &mut step.sums).collect();
        add_up(self.collective, sums)?;
        for Step { position, lr, sums, .. } in steps {
            state.add(sums);
            let metrics = sums.metrics(position.epoch + 1, position.step, lr);
            let batch = position.batch as usize;
            on_event(Event::Step { metrics: &metrics, batch, n_batches: self.train.n_batches() });
        }
        Ok(())
    }

    /// Saves the state. The metrics are flushed first: a resume drops lines that are later than the state, but cannot
    /// restore missing ones.
    fn save(&self, state: &State, metrics_file: &mut Option<MetricsFile>, optimizer: &Optimizer) -> Result<()> {
        let saved = self.on_first(|| {
            metrics_file.as_mut().map_or(Ok(()), MetricsFile::sync)?;
            state.save(self.run, self.vs, optimizer)
        });
        agree(self.collective, saved).map(drop)
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

/// Returns the seed of a step's dropout. It depends only on the run's seed and the step, so that a resumed run has the
/// same dropout as an uninterrupted one.
pub(crate) fn dropout_seed(seed: u64, step: u64) -> u64 {
    split_mix_64(seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
