//! Opens a run, new or resumed.

use std::path::Path;
use std::sync::Arc;

use tch::nn::VarStore;
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::evaluator::warn_of_few_answers;
use vqa_data::features::ExtractorInfo;
use vqa_data::files::try_directory;
use vqa_data::questions::{AnswerDict, WordDict, WordVectors};
use vqa_model::baseline::Baseline;
use vqa_model::run::RunDir;
use vqa_model::weights::load_weights;

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::run::change::Change;
use crate::run::lock::RunLock;
use crate::run::resume::{Resumed, RunConfig, check_run_dir};
use crate::run::state::State;

/// A run that is about to be started or resumed, with its dictionaries.
#[derive(Debug)]
pub struct OpenedRun {
    run: RunDir,
    resumed: Option<Resumed>,
    words: WordDict,
    answers: AnswerDict,
    /// `None` unless the run was opened with [`OpenedRun::open`].
    lock: Option<RunLock>,
}

impl OpenedRun {
    /// Makes this process the only one that trains in the directory, and then opens the run in it, so that no other
    /// process can change it afterwards. A new run gets the dictionaries `made` for it or, without these, those that
    /// its config names.
    ///
    /// # Errors
    ///
    /// Those of [`RunLock::acquire`] and [`check_run_dir`]; and when there are no dictionaries.
    pub fn open(
        run: &RunDir,
        config: &RunConfig,
        resume: bool,
        made: Option<(WordDict, AnswerDict)>,
    ) -> Result<OpenedRun> {
        let lock = RunLock::acquire(run)?;
        Ok(OpenedRun { lock: Some(lock), ..OpenedRun::read(run, config, resume, made)? })
    }

    /// Opens a run only to check that it could be trained, including that its directory can be written to. Leaves
    /// nothing behind.
    ///
    /// # Errors
    ///
    /// Those of [`OpenedRun::open`], except that another process may be training in the directory.
    pub fn open_read_only(
        run: &RunDir,
        config: &RunConfig,
        resume: bool,
        made: Option<(WordDict, AnswerDict)>,
    ) -> Result<OpenedRun> {
        try_directory(run.path())?;
        try_directory(&run.state_dir())?;
        OpenedRun::read(run, config, resume, made)
    }

    /// Opens a run in one of several processes that train it, other than process 0, which alone locks the directory and
    /// writes to it.
    ///
    /// # Errors
    ///
    /// Those of [`OpenedRun::open`], except that another process may be training in the directory.
    pub fn open_as_worker(
        run: &RunDir,
        config: &RunConfig,
        resume: bool,
        made: Option<(WordDict, AnswerDict)>,
    ) -> Result<OpenedRun> {
        OpenedRun::read(run, config, resume, made)
    }

    /// Records how many processes train the run from here on. If the number differs from before, it is added to the
    /// changes of the resumed run.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn note_processes(&mut self, n: usize) -> Result<()> {
        let Some(resumed) = &mut self.resumed else { return Ok(()) };
        if let Some(before) = State::n_processes_of(&self.run)?.filter(|&before| before != n) {
            resumed.changes.push(Change::of_processes(before, n));
        }
        Ok(())
    }

    /// Reads the run in the directory, and the dictionaries. A resumed run keeps those that it was started with, even
    /// if others have been prepared since.
    fn read(run: &RunDir, config: &RunConfig, resume: bool, made: Option<(WordDict, AnswerDict)>) -> Result<OpenedRun> {
        let resumed = check_run_dir(run, config, resume)?;
        let (words, answers) = match (&resumed, made) {
            (Some(_), _) => run.read_dictionaries(config.dict.count_answers)?,
            (None, Some(made)) => made,
            (None, None) => {
                let exists = |path: &Path| match path.exists() {
                    true => Ok(()),
                    false => Err(Error::Run {
                        path: path.to_owned(),
                        problem: match resume {
                            true => "no such file; make the dictionaries with `vqa prepare`, or train without --resume",
                            false => "no such file; make the dictionaries with `vqa prepare` first",
                        }
                        .to_owned(),
                    }),
                };
                exists(&config.dict.words)?;
                exists(&config.dict.answers)?;
                let answers = AnswerDict::load(&config.dict.answers, config.dict.count_answers)?;
                if answers.is_empty() {
                    let problem =
                        "no answers in it, so there is nothing to learn: make the dictionaries with `vqa prepare`";
                    return Err(Error::Run { path: config.dict.answers.clone(), problem: problem.to_owned() });
                }
                (WordDict::load(&config.dict.words)?, answers)
            }
        };
        Ok(OpenedRun { run: run.clone(), resumed, words, answers, lock: None })
    }

    /// Returns the run that is resumed; `None` if it is new.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// Refuses to resume with data other than the run's own.
    ///
    /// # Errors
    ///
    /// When dictionaries, questions or features are not those that the run was started with, or cannot be read.
    pub fn check_data(&self, train: &Dataset, val: Option<&Dataset>) -> Result<()> {
        match self.resumed {
            Some(_) => State::check_saved(&self.run, train, val),
            None => Ok(()),
        }
    }

    /// Returns the word dictionary.
    pub fn words(&self) -> &WordDict {
        &self.words
    }

    /// Returns the answer dictionary.
    pub fn answers(&self) -> &AnswerDict {
        &self.answers
    }

    /// Loads the weights that `model.init` names, and returns their path; `None` if it names none. A resumed run keeps
    /// its own weights.
    ///
    /// # Errors
    ///
    /// When the weights are those of another model, or belong to other dictionaries; when the config names word vectors
    /// too.
    pub fn init_weights<'a>(&self, config: &'a RunConfig, vs: &VarStore) -> Result<Option<&'a Path>> {
        let Some(init) = config.model.init.as_deref().filter(|_| self.resumed.is_none()) else { return Ok(None) };
        let problem = |problem: &str| Error::Run { path: init.to_owned(), problem: problem.to_owned() };
        if config.model.lm.glove.is_some() {
            return Err(problem("model.init and model.lm.glove both set the initial word vectors: leave one out"));
        }
        // The weights of a run belong to its dictionaries; other weights have none beside them.
        let beside = RunDir::of_checkpoint(init);
        let exists = |path: std::path::PathBuf| Some(path).filter(|path| path.exists());
        let other_words = exists(beside.words()).map(|path| WordDict::load(&path)).transpose()?;
        let count_answers = config.dict.count_answers;
        let other_answers = exists(beside.answers()).map(|path| AnswerDict::load(&path, count_answers)).transpose()?;
        if other_words.is_some_and(|other| other != self.words)
            || other_answers.is_some_and(|other| other != self.answers)
        {
            return Err(problem(
                "the dictionaries beside it differ from the run's: set dict.words and dict.answers to them",
            ));
        }
        load_weights(vs, init)?;
        Ok(Some(init))
    }

    /// Returns the file of pretrained word vectors that a new run is initialised from, if its config names one.
    pub fn word_vectors<'a>(&self, config: &'a RunConfig) -> Option<&'a Path> {
        config.model.lm.glove.as_deref().filter(|_| self.resumed.is_none())
    }

    /// Initialises a model with pretrained word vectors. Returns the ids of the words that have none, in ascending
    /// order. `progress` is called with the number of bytes just read.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, its vectors are of another length, or it has none of the words.
    pub fn init_word_vectors(
        &self,
        path: &Path,
        config: &RunConfig,
        model: &Baseline,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<u32>> {
        let vectors = WordVectors::read(path, &self.words, progress)?;
        let problem = |problem: String| Err(Error::Run { path: path.to_owned(), problem });
        let dim = config.model.lm.word_emb_dim;
        if vectors.dim() as i64 != dim {
            return problem(format!("its vectors have {} values, but model.lm.word_emb_dim = {dim}", vectors.dim()));
        }
        if vectors.missing().len() == self.words.len() {
            let n = self.words.len();
            return problem(format!("it has no vector for any of the {n} words: is it for another language?"));
        }
        model.word_embedding().set_vectors(vectors.values());
        Ok(vectors.missing().to_vec())
    }

    /// Writes the files that a run begins with: its config, and its dictionaries if it is new.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    ///
    /// # Panics
    ///
    /// When the run was opened with [`OpenedRun::open_read_only`] or [`OpenedRun::open_as_worker`].
    pub fn begin(&mut self, config: &RunConfig) -> Result<()> {
        let comments = self.resumed.as_ref().map(Resumed::comments).unwrap_or_default();
        self.run.write_config(config, &comments)?;
        // From here on the directory has a run's files, which `state/` tells from others'.
        self.lock.as_mut().expect("a run that was opened").keep();
        if self.resumed.is_none() {
            self.run.write_dictionaries(&self.words, &self.answers)?;
        }
        Ok(())
    }
}

/// Checks the data to train and validate on. Warns if questions have few answers.
///
/// # Errors
///
/// When a split has no annotations, or `patience` is set but no epoch is validated, or the features of the two splits do
/// not match.
pub fn check_data(config: &RunConfig, train: &Dataset, val: Option<&Dataset>) -> Result<(), String> {
    if train.split().annotations.is_empty() {
        return Err("split \"train\": no annotations to learn from: give its composition a_jsons".to_owned());
    }
    if let Some(val) = val {
        if val.split().annotations.is_empty() {
            let remedy = "give its composition a_jsons, or rename the split to train without validation";
            return Err(format!("split \"val\": no annotations to validate with: {remedy}"));
        }
        let TrainConfig { n_epochs, val_freq, patience, .. } = config.train;
        if patience > 0 && val_freq > n_epochs {
            return Err(format!(
                "train.patience = {patience} needs a validation to judge by, but train.val_freq = {val_freq} exceeds \
                 train.n_epochs = {n_epochs}: lower train.val_freq, or set train.patience = 0"
            ));
        }
        let (name, train_name) = (val.source_names(), train.source_names());
        let (dim, train_dim) = (val.feature_dim(), train.feature_dim());
        if dim != train_dim {
            return Err(format!(
                "{name} has {dim} values per region, but {train_name} has {train_dim}: extract val with --like the \
                 training file"
            ));
        }
        if let Some(problem) = ExtractorInfo::mismatch(val.extractor(), train.extractor(), &train_name) {
            return Err(format!("{name}: {problem}"));
        }
    } else if config.train.patience > 0 {
        return Err(format!("train.patience = {} needs a split \"val\" to judge by", config.train.patience));
    }
    let splits = [("train", Some(train)), ("val", val)];
    warn_of_few_answers(splits.into_iter().filter_map(|(name, data)| Some((name, &data?.split().annotations))));
    Ok(())
}

/// Returns the loader of the batches to train on.
pub fn train_loader(config: &RunConfig, train: Arc<Dataset>) -> Loader {
    loader(config, train, config.train.batch_size, config.train.sampler)
}

/// Returns the loader of the batches to validate on. They are twice as large as those to train on: validation keeps no
/// gradients, which leaves memory for more questions, and larger batches share more images and question beginnings.
pub fn val_loader(config: &RunConfig, val: Arc<Dataset>) -> Loader {
    loader(config, val, 2 * config.train.batch_size, Sampler::Sequential)
}

fn loader(config: &RunConfig, dataset: Arc<Dataset>, batch_size: usize, sampler: Sampler) -> Loader {
    let options = LoaderOptions { batch_size, sampler, seed: config.seed, ..LoaderOptions::default() };
    Loader::new(dataset, options)
}
