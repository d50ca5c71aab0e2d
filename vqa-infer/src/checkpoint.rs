//! Loads a trained model, given only the path of its checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::nn::{self, VarStore};
use tch::{Device, Kind};
use toml::Table;
use vqa_data::batches::Dataset;
use vqa_data::config::{Config, MAX_BATCH_SIZE, check_range};
use vqa_data::features::{ExtractorInfo, RegionSource};
use vqa_data::questions::{AnswerDict, CountAnswers, IndexMap, SplitConfig, WordDict};
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::device::parse_device;
use vqa_model::feed::Precision;
use vqa_model::loss::LossKind;
use vqa_model::memory::or_out_of_memory;
use vqa_model::run::{CheckpointHeader, RunDir};
use vqa_model::weights::load_weights;
use vqa_model::{DataDims, VqaModel};

use crate::error::{Error, Result};

/// A trained model with its dictionaries. Everything but the weights is read from the directory of the run, beside the
/// checkpoint.
pub struct Checkpoint {
    path: PathBuf,
    config: Config<Table, Answering>,
    loss: LossKind,
    words: WordDict,
    answers: AnswerDict,
    header: CheckpointHeader,
    model: Box<dyn VqaModel + Send>,
    /// Owns the model's parameters.
    vs: VarStore,
}

/// The keys of `[train]` that answering needs.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Answering {
    batch_size: usize,
    precision: Precision,
}

/// The keys that answering needs from the `[model]` table of any model.
#[derive(Deserialize)]
struct AnyModel {
    #[serde(default)]
    loss: LossKind,
}

impl Default for Answering {
    fn default() -> Answering {
        Answering { batch_size: 512, precision: Precision::default() }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.path).field("header", &self.header).finish_non_exhaustive()
    }
}

impl Checkpoint {
    /// Loads a checkpoint of the article's model, or the best one in a run's directory, onto the given device, or else
    /// the one that the run's config names.
    ///
    /// # Errors
    ///
    /// When it or one of the files beside it is missing or damaged, or they do not belong together.
    pub fn open(path: &Path, device: Option<Device>) -> Result<Checkpoint> {
        let model = |vs: nn::Path, config: &ModelConfig, dims| -> Box<dyn VqaModel + Send> {
            Box::new(Baseline::new(vs, config, dims))
        };
        Checkpoint::open_checked(path, device, ModelConfig::validate, model)
    }

    /// Like [`Checkpoint::open`], for a model of your own. `model` builds it from the `[model]` table of the run's
    /// config and the sizes of the data that it was trained on, and creates its parameters under the given path.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::open`].
    pub fn open_with<C: DeserializeOwned>(
        path: &Path,
        device: Option<Device>,
        model: impl FnOnce(nn::Path, &C, DataDims) -> Box<dyn VqaModel + Send>,
    ) -> Result<Checkpoint> {
        Checkpoint::open_checked(path, device, |_| Ok(()), model)
    }

    /// Like [`Checkpoint::open_with`], but first runs `check` on the `[model]` table.
    fn open_checked<C: DeserializeOwned>(
        path: &Path,
        device: Option<Device>,
        check: impl FnOnce(&C) -> Result<(), String>,
        model: impl FnOnce(nn::Path, &C, DataDims) -> Box<dyn VqaModel + Send>,
    ) -> Result<Checkpoint> {
        let path = &*RunDir::find_checkpoint(path)?;
        let header = CheckpointHeader::read(path)?;
        let dims = header.dims;
        let run = RunDir::of_checkpoint(path);
        if !run.config().exists() {
            return Err(Error::Mismatch {
                path: run.config(),
                problem: "no such file; a checkpoint's config.toml, words.json and answers.json belong beside it"
                    .to_owned(),
            });
        }
        let config: Config<Table, Answering> = run.read_config()?;
        let in_config = |problem: String| Error::Mismatch { path: run.config(), problem };
        config.validate().map_err(in_config)?;
        check_range("train.batch_size", config.train.batch_size, 1..=MAX_BATCH_SIZE).map_err(in_config)?;
        let of_model = |error: toml::de::Error| in_config(format!("[model]: {}", error.message()));
        let model_config: C = config.model.clone().try_into().map_err(of_model)?;
        check(&model_config).map_err(in_config)?;
        let AnyModel { loss } = config.model.clone().try_into().map_err(of_model)?;
        let (words, answers) = run.read_dictionaries(config.dict.count_answers)?;
        for (file, found, trained) in
            [(run.words(), words.len() as i64, dims.n_words), (run.answers(), answers.len() as i64, dims.n_answers)]
        {
            if found != trained {
                let checkpoint = path.display();
                let problem =
                    format!("{found} entries, but {checkpoint} was trained with {trained}: restore that run's file");
                return Err(Error::Mismatch { path: file, problem });
            }
        }
        let vs = VarStore::new(device.map_or_else(|| parse_device(&config.device), Ok)?);
        let model = or_out_of_memory(|| model(vs.root(), &model_config, dims))?;
        load_weights(&vs, path)?;
        Ok(Checkpoint { path: path.to_owned(), config, loss, words, answers, header, model, vs })
    }

    /// The model.
    pub fn model(&self) -> &dyn VqaModel {
        &*self.model
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint's header.
    pub fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// The loss that it was trained with, which determines how logits become probabilities.
    pub fn loss(&self) -> LossKind {
        self.loss
    }

    /// The arithmetic that it was trained in.
    pub fn precision(&self) -> Precision {
        self.config.train.precision
    }

    /// The number type of that arithmetic.
    pub fn kind(&self) -> Kind {
        self.precision().kind()
    }

    /// Sets the GPU to the arithmetic that the model was trained in; on the CPU there is nothing to set.
    pub(crate) fn set_arithmetic(&self) {
        self.precision().set_tf32(self.device());
    }

    /// The batch size of training.
    pub fn batch_size(&self) -> usize {
        self.config.train.batch_size
    }

    /// The seed of its run.
    pub fn seed(&self) -> u64 {
        self.config.seed
    }

    /// The data splits of its run.
    pub fn data(&self) -> &IndexMap<String, SplitConfig> {
        &self.config.data
    }

    /// The directory of its run.
    pub fn run(&self) -> RunDir {
        RunDir::of_checkpoint(&self.path)
    }

    /// The device that the model is on.
    pub fn device(&self) -> Device {
        self.vs.device()
    }

    /// The dictionary of words.
    pub fn words(&self) -> &WordDict {
        &self.words
    }

    /// The dictionary of answers.
    pub fn answers(&self) -> &AnswerDict {
        &self.answers
    }

    /// The form in which answers were counted when the candidates were chosen.
    pub fn count_answers(&self) -> CountAnswers {
        self.config.dict.count_answers
    }

    /// The number of words that questions are truncated to.
    pub fn max_question_len(&self) -> usize {
        self.config.dict.max_question_len
    }

    /// A name such as "RUN_model_13", from the run's directory and the checkpoint's file.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let absolute = std::path::absolute(&self.path).ok();
        match absolute.as_deref().and_then(Path::parent).and_then(Path::file_name) {
            Some(run) => format!("{}_{stem}", run.to_string_lossy()),
            None => stem,
        }
    }

    /// Checks that the model can answer this dataset.
    ///
    /// # Errors
    ///
    /// When its features differ in length from those that the model was trained on, or come from another extractor.
    pub fn check(&self, dataset: &Dataset) -> Result<()> {
        self.check_features(dataset.feature_dim(), dataset.extractor(), dataset.source_names())
    }

    /// Checks that the model can answer questions about the images of this source.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::check`].
    pub fn check_source(&self, source: &dyn RegionSource) -> Result<()> {
        self.check_features(source.feature_dim(), source.extractor(), source.name())
    }

    fn check_features(&self, feature_dim: usize, extractor: Option<&ExtractorInfo>, name: String) -> Result<()> {
        let (found, trained) = (feature_dim as i64, self.header.dims.feature_dim);
        let path = self.path.display();
        let problem = if found == trained {
            ExtractorInfo::mismatch(extractor, self.header.extractor.as_ref(), &format!("the model {path}"))
        } else {
            Some(format!(
                "{found} values per region, but {path} was trained on {trained}: use features from the same extractor \
                 (`vqa features extract --like` the training file)"
            ))
        };
        match problem {
            Some(problem) => Err(Error::Mismatch { path: name.into(), problem }),
            None => Ok(()),
        }
    }
}
