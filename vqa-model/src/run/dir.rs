//! The files in a run's directory.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vqa_data::files::{read_text, write_atomic};
use vqa_data::questions::{AnswerDict, CountAnswers, WordDict};

use crate::error::{Error, Result};
use crate::run::header::CheckpointHeader;

/// The directory of a run, which need not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// A run in this directory.
    pub fn new(path: impl Into<PathBuf>) -> RunDir {
        RunDir { path: path.into() }
    }

    /// The run that a checkpoint belongs to: the directory that the checkpoint is in.
    pub fn of_checkpoint(checkpoint: &Path) -> RunDir {
        RunDir::new(checkpoint.parent().unwrap_or(Path::new("")))
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory's name, the last part of its absolute path.
    pub fn name(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// `config.toml`: all settings of the run.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `words.json`: the word dictionary.
    pub fn words(&self) -> PathBuf {
        self.path.join("words.json")
    }

    /// `answers.json`: the answer dictionary.
    pub fn answers(&self) -> PathBuf {
        self.path.join("answers.json")
    }

    /// `model_N.safetensors`: the checkpoint of an epoch, counted from 1.
    pub fn checkpoint(&self, epoch: u64) -> PathBuf {
        self.path.join(format!("model_{epoch}.safetensors"))
    }

    /// `state/`: the state to resume from, and the lock.
    pub fn state_dir(&self) -> PathBuf {
        self.path.join("state")
    }

    /// `state/state.safetensors`: everything needed to resume, in one file.
    pub fn state(&self) -> PathBuf {
        self.state_dir().join("state.safetensors")
    }

    /// `state/lock`: held by the process that trains in the directory.
    pub fn lock(&self) -> PathBuf {
        self.state_dir().join("lock")
    }

    /// `metrics.jsonl`: a line every `log_every` steps, and a line for each epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `curves.svg`: a plot of the scores, loss and learning rate.
    pub fn curves(&self) -> PathBuf {
        self.path.join("curves.svg")
    }

    /// `tensorboard/`: the same curves for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// Returns the epochs that have a checkpoint, in ascending order.
    ///
    /// # Errors
    ///
    /// When the directory exists but cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.path).map_err(vqa_data::Error::io("read the directory", &self.path))?;
        let mut epochs: Vec<u64> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let epoch: u64 = name.strip_prefix("model_")?.strip_suffix(".safetensors")?.parse().ok()?;
                // Only names that this program writes: "model_0" and "model_07" are somebody else's files.
                (epoch > 0 && self.checkpoint(epoch).ends_with(name)).then_some(epoch)
            })
            .collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Returns the checkpoint that a path refers to: a file refers to itself; the directory of a run refers to the
    /// checkpoint of its best epoch, or of its last if none was validated.
    ///
    /// # Errors
    ///
    /// When it is a directory without checkpoints, or with a damaged one.
    pub fn find_checkpoint(path: &Path) -> Result<PathBuf> {
        if !path.is_dir() {
            return Ok(path.to_owned());
        }
        let run = RunDir::new(path);
        let checkpoints: Vec<PathBuf> = run.checkpoints()?.into_iter().map(|epoch| run.checkpoint(epoch)).collect();
        let mut best: Option<(f64, &PathBuf)> = None;
        for checkpoint in &checkpoints {
            let score = CheckpointHeader::read(checkpoint)?.val_score;
            // If several are equally good, the first.
            if let Some(score) = score.filter(|&score| best.is_none_or(|(highest, _)| score > highest)) {
                best = Some((score, checkpoint));
            }
        }
        best.map(|(_, checkpoint)| checkpoint).or(checkpoints.last()).cloned().ok_or_else(|| {
            Error::weights_mismatch(
                path,
                "a directory without checkpoints: give the directory of a run, or a checkpoint",
            )
        })
    }

    /// Reads `config.toml`, or the part of it that `C` covers.
    ///
    /// # Errors
    ///
    /// When it is missing, or cannot be parsed as `C`.
    pub fn read_config<C: DeserializeOwned>(&self) -> Result<C> {
        let path = self.config();
        let text = read_text(&path)?;
        toml::from_str(&text).map_err(|error| Error::RunConfig { path, source: Box::new(error) })
    }

    /// Writes `config.toml`, beginning with some lines of comments.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or contains a path that is not UTF-8, which TOML requires.
    pub fn write_config<C: Serialize>(&self, config: &C, comments: &str) -> Result<()> {
        let path = self.config();
        let text = toml::to_string(config).map_err(|error| {
            let problem =
                format!("cannot be written ({error}): rename the files and directories whose names cause this");
            vqa_data::Error::wrong_format(&path, problem)
        })?;
        Ok(write_atomic(&path, format!("{comments}{text}").as_bytes())?)
    }

    /// Reads the run's dictionaries. `count_answers` is in its config.
    ///
    /// # Errors
    ///
    /// When one is missing or damaged.
    pub fn read_dictionaries(&self, count_answers: CountAnswers) -> Result<(WordDict, AnswerDict)> {
        Ok((WordDict::load(&self.words())?, AnswerDict::load(&self.answers(), count_answers)?))
    }

    /// Writes the run's dictionaries.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn write_dictionaries(&self, words: &WordDict, answers: &AnswerDict) -> Result<()> {
        words.save(&self.words())?;
        Ok(answers.save(&self.answers())?)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::DataDims;
    use crate::weights::safetensors::write_tensors;

    use super::*;

    #[test]
    fn a_run_stands_for_its_best_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::new(directory.path());
        let find = || RunDir::find_checkpoint(run.path());
        assert!(find().unwrap_err().to_string().contains("without checkpoints"));
        let write = |epoch, val_score| {
            let dims = DataDims { n_words: 1, n_answers: 1, feature_dim: 1 };
            let (train_loss, train_score, val_upper_bound) = (1.0, 2.0, val_score);
            let header =
                CheckpointHeader { epoch, train_loss, train_score, val_score, val_upper_bound, dims, extractor: None };
            write_tensors(&run.checkpoint(epoch), &[], header.to_header()).unwrap();
        };
        write(9, None);
        write(10, None);
        assert_eq!(find().unwrap(), run.checkpoint(10), "the last one, if none was validated");
        for (epoch, score) in [(2, 40.0), (3, 41.5), (4, 41.5), (5, 39.0)] {
            write(epoch, Some(score));
        }
        assert_eq!(find().unwrap(), run.checkpoint(3));
        assert_eq!(RunDir::find_checkpoint(&run.checkpoint(5)).unwrap(), run.checkpoint(5));
    }

    #[test]
    fn only_epochs_are_checkpoints() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::new(directory.path());
        for name in ["model_1", "model_12", "model_0", "model_07", "model_x", "model_-1"] {
            fs::write(directory.path().join(format!("{name}.safetensors")), "").unwrap();
        }
        assert_eq!(run.checkpoints().unwrap(), [1, 12]);
    }
}
