use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::{Loader, SoftTargets, split_mix_64};
use vqa_model::{Header, LossKind, VqaModel};

use crate::config::{FeaturesOnDevice, Precision, TrainConfig};
use crate::cuda::allow_tf32;
use crate::feed::{Fed, Feed};
use crate::loss::{loss, loss_and_gradient};
use crate::memory::unless_out_of_memory;
use crate::metrics::{EpochMetrics, Line, StepMetrics, Sums};
use crate::optim::Optimizer;
use crate::run_dir::{Best, MetricsFile, Progress, RunDir, State};
use crate::unread::{NotFinite, Pass, Read, Step, Unread};
use crate::{Error, Result};

/// Trains a model on a loader's batches, validates it on another's, and keeps a checkpoint of every epoch.
///
/// On a CPU the same seed gives the same numbers, however often the run was stopped or killed in between: the loader's
/// order depends on its seed and the epoch, the dropout of a step on `seed` and the step's number, and the rest is in the state
/// that the run directory keeps. Dropout's random numbers come from libtorch's generator, which a process has one of, so that two
/// trainers must not run at the same time in one process.
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
        /// Its figures alone, its durations on a GPU being means; `step` counts from the start of the run.
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
        /// Where that is.
        progress: Progress,
        /// The figures of the last epoch; nothing if there was none left to train.
        last: Option<EpochMetrics>,
        /// The best epoch; nothing if none was validated.
        best: Option<Best>,
    },
    /// It was asked to stop, and its state is saved.
    Stopped(Progress),
}

/// Figures of a validation. Scores are percentages.
#[derive(Debug, Clone, Copy, Default)]
struct Scores {
    loss: f64,
    score: f64,
    upper_bound: f64,
}

/// A stop that nobody asks for.
static NEVER: AtomicBool = AtomicBool::new(false);

impl<'a> Trainer<'a> {
    /// A trainer without the parts that may be left out: it validates nothing, adds nothing to headers, nobody stops it, its seed
    /// is 0 and its loss logistic. For others, fill in their fields: `Trainer { val: Some(&val), ..Trainer::new(…) }`.
    pub fn new(
        model: &'a dyn VqaModel,
        vs: &'a VarStore,
        config: &'a TrainConfig,
        train: &'a Loader,
        run: &'a RunDir,
    ) -> Trainer<'a> {
        let (loss, header) = (LossKind::Logistic, Header::new());
        Trainer { model, vs, loss, config, seed: 0, train, val: None, run, header, stop: &NEVER }
    }

    /// Trains from where the run directory stands: from the start, or after the last saved step.
    ///
    /// # Errors
    ///
    /// When data cannot be read, a file not be written, the loss or a weight becomes NaN or infinite, or memory is full.
    /// What was saved before is intact then.
    pub fn run(&self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        unless_out_of_memory(|| self.run_epochs(on_event)).unwrap_or_else(|| {
            let batch_size = self.train.options().batch_size;
            let features_on_device = match self.config.features_on_device {
                FeaturesOnDevice::Auto => self.vs.device().is_cuda(),
                FeaturesOnDevice::Always => true,
                FeaturesOnDevice::Never => false,
            };
            Err(Error::OutOfMemory { batch_size, features_on_device, saved: self.run.saved()? })
        })
    }

    /// The way of a loader's batches to the device.
    pub(crate) fn feed(&self, loader: &Loader, n_parts: usize, on_event: &mut dyn FnMut(Event)) -> Result<Feed> {
        let device = self.vs.device();
        if device.is_cuda() && !allow_tf32(self.config.precision == Precision::Tf32) {
            tracing::warn!("this libtorch cannot be told whether to compute in TF32");
        }
        Feed::new(loader, (device, n_parts), self.config, &mut |n, of| on_event(Event::Features { n, of }))
    }

    fn run_epochs(&self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let mut optimizer = Optimizer::new(self.vs.variables(), self.config);
        let mut state = self.run.restore(self.train.dataset().len(), self.vs, &mut optimizer)?;
        let mut metrics_file = self.run.open_metrics(state.progress)?;
        self.run.remove_old_checkpoints(&state, self.config)?;
        let train = self.feed(self.train, self.config.accumulate, on_event)?;
        let val = self.val.map(|val| self.feed(val, 1, on_event)).transpose()?;
        let mut last = None;

        while state.progress.epoch < self.config.n_epochs && !state.is_out_of_patience(self.config.patience) {
            let epoch = state.progress.epoch + 1;
            let mut batches = train.epoch(epoch, state.progress.batch as usize);
            let mut unread = Unread::default();
            loop {
                let tic = Instant::now();
                let Some(batch) = batches.next() else { break };
                let batch = batch??;
                let data = tic.elapsed().saturating_sub(batch.waited);

                tch::manual_seed(dropout_seed(self.seed, state.progress.step) as i64);
                let lr = optimizer.lr();
                let mut made = self.add_gradients(&train, batch);
                optimizer.apply();
                made.sums.data += data;
                made.sums.backward += tic.elapsed().saturating_sub(made.sums.duration());
                state.finish_step();
                unread.push(state.progress, lr, made);

                let step = state.progress.step;
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
                    return Ok(Outcome::Stopped(state.progress));
                }
            }
            self.report(&mut unread, &mut state, on_event)?;

            let tic = Instant::now();
            let mut val_scores = None;
            if let Some(val) = val.as_ref().filter(|_| epoch.is_multiple_of(self.config.val_freq)) {
                val_scores = optimizer.with_average(|| self.validate(val, on_event))?;
                if val_scores.is_none() {
                    self.save(&state, &mut metrics_file, &optimizer)?;
                    return Ok(Outcome::Stopped(state.progress));
                }
            }
            let metrics = EpochMetrics {
                epoch,
                step: Some(state.progress.step),
                train_loss: state.of_epoch.mean_loss(),
                train_score: state.of_epoch.percent(),
                val_loss: val_scores.map(|scores| scores.loss),
                val_score: val_scores.map(|scores| scores.score),
                val_upper_bound: val_scores.map(|scores| scores.upper_bound),
                seconds: (state.of_epoch.duration() + tic.elapsed()).as_secs_f64(),
            };
            state.finish_epoch(metrics.val_score);
            metrics_file.append(&Line::Epoch(metrics.clone()))?;
            self.run.draw_curves()?;
            optimizer.with_average(|| self.run.save_checkpoint(state.progress, self.vs, self.header(&metrics)))?;
            self.save(&state, &mut metrics_file, &optimizer)?;
            self.run.remove_old_checkpoints(&state, self.config)?;
            on_event(Event::Epoch(&metrics));
            last = Some(metrics);
        }
        Ok(Outcome::Finished { progress: state.progress, last, best: state.best })
    }

    /// Goes through a batch, forward and backward, part by part.
    pub(crate) fn add_gradients(&self, feed: &Feed, batch: Fed) -> Step {
        let weight = |targets: &SoftTargets| match self.loss {
            LossKind::Logistic => targets.len(),
            // Questions without labels are not in the mean.
            LossKind::Softmax => (0..targets.len()).filter(|&i| targets.best(i) > 0.0).count(),
        };
        let of_all = batch.parts.iter().map(|part| weight(&part.batch.targets)).sum::<usize>().max(1) as f64;
        let mut sums = Sums { n_steps: 1, ..Sums::default() };
        let mut passes = Vec::with_capacity(batch.parts.len());
        for mut part in batch.parts {
            let tic = Instant::now();
            let (input, targets) = feed.tensors(&mut part);
            sums.data += tic.elapsed();

            let tic = Instant::now();
            let pass = self.model.train(&input);
            let logits = &pass.output.logits; // [B, n_answers]
            let (loss, of_logits) = loss_and_gradient(self.loss, logits, &targets.dense(logits.size()[1]));
            let score = targets.total_score(logits);
            let share = weight(&part.batch.targets) as f64 / of_all;
            sums.forward += tic.elapsed();

            let tic = Instant::now();
            pass.backward(&(of_logits * share));
            sums.backward += tic.elapsed();
            sums.n_questions += part.batch.len();
            passes.push(Pass {
                share,
                loss,
                score,
                question_ids: part.batch.question_ids.iter().take(5).copied().collect(),
            });
        }
        Step { sums, passes }
    }

    /// The figures of the steps that are made; waits for a GPU.
    pub(crate) fn read(&self, unread: &mut Unread) -> Result<Vec<Read>> {
        match unread.read() {
            Ok(read) => Ok(read),
            Err(NotFinite { loss, at, question_ids }) => {
                let (epoch, batch, step) = (at.epoch + 1, at.batch, at.step);
                Err(Error::Diverged { loss, epoch, batch, step, question_ids, saved: self.run.saved()? })
            }
        }
    }

    /// Adds the steps that are made to the state, and reports them.
    fn report(&self, unread: &mut Unread, state: &mut State, on_event: &mut dyn FnMut(Event)) -> Result<()> {
        for Read { at, lr, sums } in self.read(unread)? {
            state.add(sums);
            let metrics = sums.metrics(at.epoch + 1, at.step, lr);
            on_event(Event::Step { metrics: &metrics, batch: at.batch as usize, n_batches: self.train.n_batches() });
        }
        Ok(())
    }

    /// Saves where the run stands. The metrics first: a resume drops lines after the state, and cannot make up missing ones.
    fn save(&self, state: &State, metrics_file: &mut MetricsFile, optimizer: &Optimizer) -> Result<()> {
        metrics_file.sync()?;
        self.run.save_state(state, self.vs, optimizer)
    }

    /// Scores all of `val`; nothing if the run was asked to stop.
    fn validate(&self, val: &Feed, on_event: &mut dyn FnMut(Event)) -> Result<Option<Scores>> {
        // On the device, in float64.
        let mut sums = [0.0, 0.0].map(|zero: f64| Tensor::from(zero).to_device(self.vs.device()));
        let (mut n, mut upper_bound) = (0, 0.0);
        for (index, batch) in val.epoch(0, 0).enumerate() {
            for mut part in batch??.parts {
                let (input, targets) = val.tensors(&mut part);
                let logits = self.model.infer(&input).logits;
                let loss = loss(self.loss, &logits, &targets.dense(logits.size()[1])).to_kind(Kind::Double);
                let _ = sums[0].g_add_(&(loss * part.batch.len() as f64));
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
        Ok(Some(Scores { loss: loss / n, score: 100.0 * score / n, upper_bound: 100.0 * upper_bound / n }))
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
