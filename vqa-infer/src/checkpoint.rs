//! A trained model, from the path of its checkpoint alone.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::Device;
use tch::nn::VarStore;
use vqa_data::{AnswerDict, Dataset, DictConfig, WordDict};
use vqa_model::{Baseline, DataDims, ModelConfig, load_weights, read_header};

use crate::{Error, Result};

/// A trained model with its dictionaries. Everything but the weights is looked for beside the checkpoint:
/// `config.toml`, `words.json`, `answers.json`.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    max_question_len: usize,
    words: WordDict,
    answers: AnswerDict,
    dims: DataDims,
    model: Baseline,
    /// Keeps the model's parameters.
    vs: VarStore,
}

/// The part of a run's config that a trained model needs.
#[derive(Deserialize)]
struct RunConfig {
    model: ModelConfig,
    dict: DictConfig,
}

impl Checkpoint {
    /// Loads a checkpoint to a device.
    ///
    /// # Errors
    ///
    /// When it or one of the files beside it is missing or damaged, or they do not belong together.
    pub fn open(path: &Path, device: Device) -> Result<Checkpoint> {
        let dims = DataDims::from_header(&read_header(path)?).ok_or_else(|| {
            Error::Checkpoint(format!(
                "{}: its header does not say how many words, answers and numbers a region it was trained on: not a checkpoint of `vqa train`",
                path.display()
            ))
        })?;
        let run = path.parent().unwrap_or(Path::new(""));
        let config_path = run.join("config.toml");
        let text = std::fs::read_to_string(&config_path).map_err(|error| {
            Error::Checkpoint(format!(
                "cannot read {}: {error}; a checkpoint's config.toml, words.json and answers.json belong beside it",
                config_path.display()
            ))
        })?;
        let config: RunConfig = toml::from_str(&text)
            .map_err(|error| Error::Checkpoint(format!("{}: {}", config_path.display(), error.message())))?;
        let words = WordDict::load(&run.join("words.json"))?;
        let answers = AnswerDict::load(&run.join("answers.json"))?;
        for (file, found, trained) in
            [("words.json", words.len() as i64, dims.n_words), ("answers.json", answers.len() as i64, dims.n_answers)]
        {
            if found != trained {
                return Err(Error::Checkpoint(format!(
                    "{}: {found} entries, and {} was trained with {trained}: put the file of that run back",
                    run.join(file).display(),
                    path.display()
                )));
            }
        }
        let vs = VarStore::new(device);
        let model = Baseline::new(vs.root(), &config.model, dims);
        load_weights(&vs, path)?;
        Ok(Checkpoint {
            path: path.to_owned(),
            config: config.model,
            max_question_len: config.dict.max_question_len,
            words,
            answers,
            dims,
            model,
            vs,
        })
    }

    /// The model.
    pub fn model(&self) -> &Baseline {
        &self.model
    }

    /// Its config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.vs.device()
    }

    /// The words it knows.
    pub fn words(&self) -> &WordDict {
        &self.words
    }

    /// The answers it can give.
    pub fn answers(&self) -> &AnswerDict {
        &self.answers
    }

    /// Words that a question is cut to.
    pub fn max_question_len(&self) -> usize {
        self.max_question_len
    }

    /// "RUN_model_13", after the run's directory and the checkpoint.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let absolute = std::path::absolute(&self.path).ok();
        match absolute.as_deref().and_then(Path::parent).and_then(Path::file_name) {
            Some(run) => format!("{}_{stem}", run.to_string_lossy()),
            None => stem,
        }
    }

    /// Checks that the model can be asked about this dataset.
    ///
    /// # Errors
    ///
    /// When its regions have other than the numbers that the model was trained on.
    pub fn check(&self, dataset: &Dataset) -> Result<()> {
        let found = dataset.feature_dim() as i64;
        if found == self.dims.feature_dim {
            return Ok(());
        }
        Err(Error::Checkpoint(format!(
            "{}: {found} numbers a region, and {} was trained on {}: take features from the same extractor (`vqa features extract --like` the training file)",
            dataset.source_names(),
            self.path.display(),
            self.dims.feature_dim
        )))
    }
}
