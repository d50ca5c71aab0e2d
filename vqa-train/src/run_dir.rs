//! The files of a run: checkpoints, the state that a resume needs, and the metrics.
//!
//! The state is one file, so that weights, optimiser and progress cannot come from different moments, whenever the program
//! or the machine dies. All else follows from it: a resume drops the metrics after it, and trains to the checkpoints
//! after it again, to the same numbers.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::VarStore;
use vqa_data::{create_directory, write_atomic};
use vqa_model::{Header, read_header, read_tensors, write_tensors};

use crate::config::TrainConfig;
use crate::curves;
use crate::metrics::{Line, Sums};
use crate::optim::Optimizer;
use crate::tensorboard::EventFile;
use crate::{Error, Result};

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished.
    pub epoch: u64,
    /// Batches trained on in the epoch after them.
    pub batch: u64,
    /// Optimiser steps made since the start of the run.
    pub step: u64,
}

/// The epoch with the highest validation score; the first of them, if several have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1.
    pub epoch: u64,
    /// Mean soft score of the validation questions, in percent.
    pub val_score: f64,
}

/// What a resume needs beside the weights and the optimiser's figures.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Training questions: with others the batches would be others.
    pub(crate) n_questions: usize,
    pub(crate) progress: Progress,
    /// Of the epoch in progress.
    pub(crate) of_epoch: Sums,
    /// Of the steps since the last step line, in the epoch in progress.
    pub(crate) of_interval: Sums,
    pub(crate) best: Option<Best>,
    /// Validations since the best one.
    pub(crate) n_since_best: u64,
}

impl State {
    /// Counts a step.
    pub(crate) fn finish_step(&mut self) {
        self.progress.batch += 1;
        self.progress.step += 1;
    }

    /// Adds the figures of a step.
    pub(crate) fn add(&mut self, sums: Sums) {
        self.of_epoch.add(sums);
        self.of_interval.add(sums);
    }

    /// Whether there were `patience` validations without a better score; never, if that is 0.
    pub(crate) fn is_out_of_patience(&self, patience: u64) -> bool {
        patience > 0 && self.n_since_best >= patience
    }

    /// Goes on to the next epoch.
    pub(crate) fn finish_epoch(&mut self, val_score: Option<f64>) {
        self.progress.epoch += 1;
        self.progress.batch = 0;
        (self.of_epoch, self.of_interval) = (Sums::default(), Sums::default());
        let Some(val_score) = val_score else { return };
        if self.best.is_none_or(|best| val_score > best.val_score) {
            self.best = Some(Best { epoch: self.progress.epoch, val_score });
            self.n_since_best = 0;
        } else {
            self.n_since_best += 1;
        }
    }
}

/// While this exists, no other process trains in the directory. The operating system ends it with the process.
#[derive(Debug)]
pub struct RunLock {
    _file: Option<File>,
}

/// In the state's file, before the names of the weights.
const WEIGHTS: &str = "model.";

/// In the header of the state's file.
const STATE: &str = "state";

impl RunDir {
    /// The run in this directory, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> RunDir {
        RunDir { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint of an epoch, counted from 1.
    pub fn checkpoint(&self, epoch: u64) -> PathBuf {
        self.path.join(format!("model_{epoch}.safetensors"))
    }

    /// The epochs of which there is a checkpoint, in order.
    ///
    /// # Errors
    ///
    /// When the directory is there but cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.path).map_err(vqa_data::Error::io("read the directory", &self.path))?;
        let mut epochs: Vec<u64> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.strip_prefix("model_")?.strip_suffix(".safetensors")?.parse().ok()
            })
            .collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    fn state_dir(&self) -> PathBuf {
        self.path.join("state")
    }

    fn state_file(&self) -> PathBuf {
        self.state_dir().join("state.safetensors")
    }

    /// The picture of the run's scores, loss and learning rate.
    pub fn curves(&self) -> PathBuf {
        self.path.join("curves.svg")
    }

    /// Draws [`RunDir::curves`] from the metrics that are there. Without a finished epoch there is nothing to draw.
    ///
    /// # Errors
    ///
    /// When the metrics cannot be read, or the picture not be written.
    pub fn draw_curves(&self) -> Result<()> {
        let path = self.metrics();
        let text = fs::read_to_string(&path).map_err(vqa_data::Error::io("read", &path))?;
        match curves::draw(&self.name(), Line::parse_all(&text)) {
            Some(svg) => Ok(write_atomic(&self.curves(), svg.as_bytes())?),
            None => Ok(()),
        }
    }

    /// The last part of the path.
    fn name(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Makes this process the only one that trains in the directory, and removes what a killed one left half-written.
    ///
    /// # Errors
    ///
    /// When another process trains in it, or the directory cannot be made.
    pub fn lock(&self) -> Result<RunLock> {
        let directory = self.state_dir();
        create_directory(&directory)?;
        let path = directory.join("lock");
        let file = File::create(&path).map_err(vqa_data::Error::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => {
                for directory in [&self.path, &directory] {
                    remove_half_written(directory)?;
                }
                Ok(RunLock { _file: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(Error::Run {
                path: self.path.clone(),
                problem: "another process is training in it: wait for its end, or choose another out_dir".to_owned(),
            }),
            // A file system without locks: nothing is known of others.
            Err(TryLockError::Error(_)) => Ok(RunLock { _file: None }),
        }
    }

    /// How far the run has come; nothing if nothing of it was saved.
    ///
    /// # Errors
    ///
    /// When the state is there but damaged.
    pub fn progress(&self) -> Result<Option<Progress>> {
        Ok(self.state()?.map(|state| state.progress))
    }

    fn state(&self) -> Result<Option<State>> {
        let path = self.state_file();
        if !path.exists() {
            return Ok(None);
        }
        match read_header(&path)?.get(STATE).map(|state| serde_json::from_str(state)) {
            Some(Ok(state)) => Ok(Some(state)),
            _ => Err(Error::Run {
                path,
                problem: "not a state of this version of vqa: go on with that version, or choose another out_dir"
                    .to_owned(),
            }),
        }
    }

    /// What there is of the run, in words: the state and the last checkpoint.
    pub(crate) fn saved(&self) -> Result<Option<String>> {
        let Some(Progress { epoch, step, .. }) = self.progress()? else { return Ok(None) };
        let checkpoint = self.checkpoint(epoch);
        let checkpoint = if checkpoint.exists() { format!(" and {}", checkpoint.display()) } else { String::new() };
        Ok(Some(format!("saved are {} (of step {step}){checkpoint}", self.state_file().display())))
    }

    /// Writes the state: one file, replaced as a whole. Refuses NaN and infinity.
    pub(crate) fn save_state(&self, state: &State, vs: &VarStore, optimizer: &Optimizer) -> Result<()> {
        let mut tensors: Vec<(String, Tensor)> =
            vs.variables().into_iter().map(|(name, tensor)| (format!("{WEIGHTS}{name}"), tensor)).collect();
        tensors.extend(optimizer.state());
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        self.check_finite(&tensors, state.progress.step)?;
        let text = serde_json::to_string(state).expect("numbers are valid JSON");
        Ok(write_tensors(&self.state_file(), &tensors, Header::from([(STATE.to_owned(), text)]))?)
    }

    /// Writes the checkpoint of the last epoch. Refuses NaN and infinity.
    pub(crate) fn save_checkpoint(&self, progress: Progress, vs: &VarStore, header: Header) -> Result<()> {
        let mut weights: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
        weights.sort_by(|a, b| a.0.cmp(&b.0));
        self.check_finite(&weights, progress.step)?;
        Ok(write_tensors(&self.checkpoint(progress.epoch), &weights, header)?)
    }

    fn check_finite(&self, tensors: &[(String, Tensor)], step: u64) -> Result<()> {
        // A sum is finite if all are, and much faster to find than `isfinite`. One that overflows is no better than infinite.
        let is_finite = |tensor: &Tensor| tensor.sum(tensor.kind()).double_value(&[]).is_finite();
        match tensors.iter().find(|(_, tensor)| !is_finite(tensor)) {
            Some((name, _)) => Err(Error::NotFinite { tensor: name.clone(), step, saved: self.saved()? }),
            None => Ok(()),
        }
    }

    /// Removes the checkpoints that `keep_last` and `keep_best` do not keep.
    pub(crate) fn remove_old_checkpoints(&self, state: &State, config: &TrainConfig) -> Result<()> {
        if config.keep_last == 0 {
            return Ok(());
        }
        let best = state.best.filter(|_| config.keep_best).map(|best| best.epoch);
        let is_old = |&epoch: &u64| epoch + config.keep_last <= state.progress.epoch && Some(epoch) != best;
        for path in self.checkpoints()?.into_iter().filter(is_old).map(|epoch| self.checkpoint(epoch)) {
            fs::remove_file(&path).map_err(vqa_data::Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Goes back to the saved state, or begins one.
    pub(crate) fn restore(&self, n_questions: usize, vs: &VarStore, optimizer: &mut Optimizer) -> Result<State> {
        let Some(state) = self.state()? else { return Ok(State { n_questions, ..State::default() }) };
        let path = self.state_file();
        let of_another = |problem: String| Error::Run {
            path: path.clone(),
            problem: format!("{problem}: go on with what the run began with, or choose another out_dir"),
        };
        if state.n_questions != n_questions {
            let before = state.n_questions;
            return Err(of_another(format!(
                "the run has {before} training questions, and now there are {n_questions}"
            )));
        }
        let (weights, figures): (Vec<_>, Vec<_>) =
            read_tensors(&path)?.into_iter().partition(|(name, _)| name.starts_with(WEIGHTS));
        let mut variables = vs.variables();
        for (name, stored) in weights {
            match variables.remove(&name[WEIGHTS.len()..]) {
                Some(mut variable) if variable.size() == stored.size() => tch::no_grad(|| variable.copy_(&stored)),
                _ => return Err(of_another(format!("{name} is not in this model, or of another shape"))),
            }
        }
        if let Some(name) = variables.keys().min() {
            return Err(of_another(format!("{WEIGHTS}{name} is missing")));
        }
        optimizer.restore(state.progress.step, figures).map_err(of_another)?;
        Ok(state)
    }

    /// Opens the metrics for appending, without the lines of what will be trained again.
    pub(crate) fn open_metrics(&self, progress: Progress) -> Result<MetricsFile> {
        #[derive(Deserialize)]
        #[serde(tag = "kind", rename_all = "lowercase")]
        enum Place {
            Step { step: u64 },
            Epoch { epoch: u64 },
        }
        let is_before = |place: Place| match place {
            Place::Step { step } => step <= progress.step,
            // Its step may be saved, and its validation not.
            Place::Epoch { epoch } => epoch <= progress.epoch,
        };
        let path = self.metrics();
        let old = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.map_err(vqa_data::Error::io("read", &path))?,
        };
        let kept: String = old
            .lines()
            .filter(|line| serde_json::from_str(line).is_ok_and(is_before))
            .flat_map(|line| [line, "\n"])
            .collect();
        write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(vqa_data::Error::io("write", &path))?;
        let board = EventFile::replace(&self.path.join("tensorboard"), Line::parse_all(&kept))?;
        Ok(MetricsFile { path, file, board })
    }
}

/// Removes temporary files of processes that were killed. They begin with a dot and end with `.tmp`, as `AtomicFile` names them.
fn remove_half_written(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(vqa_data::Error::io("read the directory", directory))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") && path.is_file() {
            fs::remove_file(&path).map_err(vqa_data::Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    /// The same for TensorBoard.
    board: EventFile,
}

impl MetricsFile {
    /// Appends a line, at once.
    pub(crate) fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line).expect("numbers are valid JSON");
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(vqa_data::Error::io("write", &self.path))?;
        self.board.append(line)
    }

    /// Flushes the lines to the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        Ok(self.file.sync_data().map_err(vqa_data::Error::io("write", &self.path))?)
    }
}
