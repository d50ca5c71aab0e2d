//! The files of a run: checkpoints, the state that a resume needs, and the metrics.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use vqa_data::write_atomic;
use vqa_model::{Header, load_weights, read_header, read_tensors, save_weights, write_tensors};

use crate::curves;
use crate::metrics::Line;
use crate::optim::Optimizer;
use crate::tensorboard::EventFile;
use crate::{Error, Result};

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

/// How far a run has come: whole epochs and the steps in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished.
    pub epoch: u64,
    /// Optimiser steps made in them.
    pub step: u64,
}

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

    /// Whether there is a checkpoint of any epoch.
    ///
    /// # Errors
    ///
    /// When the directory is there but cannot be read.
    pub fn has_checkpoints(&self) -> Result<bool> {
        if !self.path.exists() {
            return Ok(false);
        }
        let entries = fs::read_dir(&self.path).map_err(vqa_data::Error::io("read the directory", &self.path))?;
        Ok(entries.flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("model_") && name.ends_with(".safetensors")
        }))
    }

    fn state(&self) -> PathBuf {
        self.path.join("state").join("optimizer.safetensors")
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

    /// How far the run has come; nothing if it has finished no epoch.
    ///
    /// # Errors
    ///
    /// When the state is there but damaged.
    pub fn progress(&self) -> Result<Option<Progress>> {
        let path = self.state();
        if !path.exists() {
            return Ok(None);
        }
        let header = read_header(&path)?;
        let number = |key: &str| header.get(key).and_then(|value| value.parse().ok());
        match (number("epoch"), number("step")) {
            (Some(epoch), Some(step)) => Ok(Some(Progress { epoch, step })),
            _ => Err(Error::Run { path, problem: "does not say which epoch it is of: start the run anew".to_owned() }),
        }
    }

    /// Writes the checkpoint of an epoch, then the state. A crash between the two leaves the state of the epoch
    /// before, whose checkpoint is still there: the last epoch is then trained again, to the same numbers.
    pub(crate) fn save(
        &self,
        progress: Progress,
        vs: &VarStore,
        optimizer: &mut Optimizer,
        header: Header,
    ) -> Result<()> {
        save_weights(vs, &self.checkpoint(progress.epoch), header)?;
        let header = Header::from([
            ("epoch".to_owned(), progress.epoch.to_string()),
            ("step".to_owned(), progress.step.to_string()),
        ]);
        Ok(write_tensors(&self.state(), &optimizer.adamax().state(), header)?)
    }

    /// Goes back to the end of the last finished epoch.
    pub(crate) fn restore(&self, vs: &VarStore, optimizer: &mut Optimizer) -> Result<Progress> {
        let Some(progress) = self.progress()? else { return Ok(Progress::default()) };
        load_weights(vs, &self.checkpoint(progress.epoch))?;
        let path = self.state();
        optimizer.adamax().restore(progress.step, read_tensors(&path)?).map_err(|problem| Error::Run {
            path,
            problem: format!("{problem}: the state of another model; start the run anew"),
        })?;
        Ok(progress)
    }

    /// Opens the metrics for appending, without the lines of epochs that will be trained again.
    pub(crate) fn open_metrics(&self, progress: Progress) -> Result<MetricsFile> {
        #[derive(Deserialize)]
        struct Epoch {
            epoch: u64,
        }
        let path = self.metrics();
        let old = if progress.epoch > 0 { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let kept: String = old
            .lines()
            .filter(|line| serde_json::from_str::<Epoch>(line).is_ok_and(|line| line.epoch <= progress.epoch))
            .flat_map(|line| [line, "\n"])
            .collect();
        write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(vqa_data::Error::io("write", &path))?;
        let board = EventFile::replace(&self.path.join("tensorboard"), Line::parse_all(&kept))?;
        Ok(MetricsFile { path, file, board })
    }
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
}
