//! A run as it is opened: new, or resumed.

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

use crate::error::{Error, Result};
use crate::run::change::Change;
use crate::run::lock::RunLock;
use crate::run::resume::{Resumed, RunConfig, check_run_dir};
use crate::run::state::State;

/// A run that is about to begin or to be resumed, with its dictionaries.
#[derive(Debug)]
pub struct OpenedRun {
    run: RunDir,
    resumed: Option<Resumed>,
    words: WordDict,
    answers: AnswerDict,
    /// Nothing if the run is only looked at.
    lock: Option<RunLock>,
}

impl OpenedRun {
    /// Makes this process the only one that trains in the directory, and then opens the run in it: what it was found to
    /// be, it stays. A new run is given the dictionaries that were `made` for it, or else those that its config names.
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

    /// Opens a run only to see whether it could be trained, which includes that its directory can be written. Nothing
    /// is left there.
    ///
    /// # Errors
    ///
    /// Those of [`OpenedRun::open`], but for another process that trains in the directory.
    pub fn look(
        run: &RunDir,
        config: &RunConfig,
        resume: bool,
        made: Option<(WordDict, AnswerDict)>,
    ) -> Result<OpenedRun> {
        try_directory(run.path())?;
        try_directory(&run.state_dir())?;
        OpenedRun::read(run, config, resume, made)
    }

    /// Opens a run as one of the processes that train it together, not the first, which writes to the directory.
    ///
    /// # Errors
    ///
    /// Those of [`OpenedRun::open`], but for another process that trains in the directory.
    pub fn follow(
        run: &RunDir,
        config: &RunConfig,
        resume: bool,
        made: Option<(WordDict, AnswerDict)>,
    ) -> Result<OpenedRun> {
        OpenedRun::read(run, config, resume, made)
    }

    /// Says how many processes train the run from here on. Another number than before is a change of the run.
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

    /// Reads what is in the directory, and the dictionaries. A resumed run keeps those that it was started with, even
    /// if others were prepared since.
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
                (WordDict::load(&config.dict.words)?, answers)
            }
        };
        Ok(OpenedRun { run: run.clone(), resumed, words, answers, lock: None })
    }

    /// What is resumed; nothing if the run is new.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// Refuses to resume with other data than the run's own.
    ///
    /// # Errors
    ///
    /// When dictionaries, questions or features are not those that the run was started with; or they cannot be read.
    pub fn check_data(&self, train: &Dataset, val: Option<&Dataset>) -> Result<()> {
        match self.resumed {
            Some(_) => State::check_saved(&self.run, train, val),
            None => Ok(()),
        }
    }

    /// The words.
    pub fn words(&self) -> &WordDict {
        &self.words
    }

    /// The candidate answers.
    pub fn answers(&self) -> &AnswerDict {
        &self.answers
    }

    /// Loads the weights that `model.init` names, and says which. A run that is resumed has learnt its own.
    ///
    /// # Errors
    ///
    /// When the weights are of another model, or belong to other dictionaries; when word vectors are named too.
    pub fn init_weights<'a>(&self, config: &'a RunConfig, vs: &VarStore) -> Result<Option<&'a Path>> {
        let Some(init) = config.model.init.as_deref().filter(|_| self.resumed.is_none()) else { return Ok(None) };
        let problem = |problem: &str| Error::Run { path: init.to_owned(), problem: problem.to_owned() };
        if config.model.lm.glove.is_some() {
            return Err(problem("model.init and model.lm.glove both set the initial word vectors: leave one out"));
        }
        // Weights of a run belong to its dictionaries; others come without any.
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

    /// The file of pretrained word vectors that a new run is initialised from, if its config names one.
    pub fn word_vectors<'a>(&self, config: &'a RunConfig) -> Option<&'a Path> {
        config.model.lm.glove.as_deref().filter(|_| self.resumed.is_none())
    }

    /// Gives a model pretrained word vectors. Returns the ids of the words that have none, rising. `progress` is called
    /// with the number of bytes just read.
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

    /// Writes what a run begins with: its config, and its dictionaries if it is new.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    ///
    /// # Panics
    ///
    /// When the run was only looked at, or followed.
    pub fn begin(&mut self, config: &RunConfig) -> Result<()> {
        let comments = self.resumed.as_ref().map(Resumed::comments).unwrap_or_default();
        self.run.write_config(config, &comments)?;
        if self.resumed.is_none() {
            self.run.write_dictionaries(&self.words, &self.answers)?;
        }
        self.lock.as_mut().expect("a run that was opened").keep();
        Ok(())
    }
}

/// Says what is wrong with the data to train and validate on, if anything. Warns where questions have few answers.
///
/// # Errors
///
/// When there is nothing to learn from or nothing to judge by, or the two splits have other features.
pub fn check_data(config: &RunConfig, train: &Dataset, val: Option<&Dataset>) -> Result<(), String> {
    if train.split().annotations.is_empty() {
        return Err("split \"train\": no annotations to learn from: give its composition a_jsons".to_owned());
    }
    if let Some(val) = val {
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

/// The batches to train on.
pub fn train_loader(config: &RunConfig, train: Arc<Dataset>) -> Loader {
    loader(config, train, config.train.batch_size, config.train.sampler)
}

/// The batches to validate on. Nothing is learnt from them: with no gradients to keep there is room for more questions,
/// and larger batches share more images and beginnings of questions.
pub fn val_loader(config: &RunConfig, val: Arc<Dataset>) -> Loader {
    loader(config, val, 2 * config.train.batch_size, Sampler::Sequential)
}

fn loader(config: &RunConfig, dataset: Arc<Dataset>, batch_size: usize, sampler: Sampler) -> Loader {
    let options = LoaderOptions { batch_size, sampler, seed: config.seed, ..LoaderOptions::default() };
    Loader::new(dataset, options)
}
