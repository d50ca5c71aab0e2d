use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use tch::nn::VarStore;
use vqa_data::{AnswerDict, Dataset, Loader, LoaderOptions, Sampler, WordDict, WordVectors, write_atomic};
use vqa_model::{Baseline, DataDims, load_weights, parse_device};
use vqa_train::{Best, EpochMetrics, Outcome, Progress as Place, RunDir, Trainer};

use crate::args::TrainArgs;
use crate::commands::{dry_run, split, watch};
use crate::config::Config;
use crate::interrupt::FinishTheStep;
use crate::terminal::{Progress, print};

/// Keys that a resumed run may have otherwise than before: they change no number that training computes, but for the last
/// digits on another device.
const FREE: [&str; 9] = [
    "device",
    "train.n_epochs",
    "train.val_freq",
    "train.patience",
    "train.checkpoint_every",
    "train.keep_last",
    "train.keep_best",
    "train.log_every",
    "train.features_on_device",
];

/// Keys that a resumed run may change for the steps to come, when it diverged say. The run's config.toml notes what they were.
const OF_LATER_STEPS: [&str; 6] =
    ["train.optim.lr", "train.lr_steps", "train.lr_ratio", "train.clip_grad", "train.max_grad_norm", "train.precision"];

/// How training ended.
pub struct Trained {
    /// The epoch of the last checkpoint.
    pub epoch: u64,
    /// The figures of that epoch, unless it was trained earlier.
    pub last: Option<EpochMetrics>,
    /// The best epoch, if any was validated.
    pub best: Option<Best>,
}

pub fn run(args: &TrainArgs) -> Result<()> {
    let mut config = Config::load(&args.config.config, &args.config.set)?;
    if let Some(init) = &args.init {
        config.model.init = Some(std::path::absolute(init)?);
    }
    if args.resume && config.model.init.is_none() {
        // It was perhaps given on the command line. The run has it on record.
        let before = Config::load(&config.out_dir.join("config.toml"), &[]);
        config.model.init = before.ok().and_then(|before| before.model.init);
    }
    if args.dry_run {
        return start(&config, args.resume, true).map(|_| ());
    }
    let Trained { epoch, last, best } = train(&config, args.resume)?;
    let run = RunDir::new(&config.out_dir);
    let score = last.and_then(|epoch| epoch.val_score).map(|score| format!(", val_score {score:.2}"));
    print(&format!("{}{}", run.checkpoint(epoch).display(), score.unwrap_or_default()))?;
    if let Some(best) = best {
        let checkpoint = run.checkpoint(best.epoch);
        let removed = if checkpoint.exists() { "" } else { " (removed: train.keep_best = false)" };
        print(&format!("best: {}{removed}, val_score {:.2}", checkpoint.display(), best.val_score))?;
    }
    Ok(())
}

/// Trains as the config says.
pub fn train(config: &Config, resume: bool) -> Result<Trained> {
    Ok(start(config, resume, false)?.expect("no dry run"))
}

/// Reads everything, and trains; or, for a dry run, prints what that would take, and writes nothing.
fn start(config: &Config, resume: bool, dry_run: bool) -> Result<Option<Trained>> {
    let run = RunDir::new(&config.out_dir);
    let resumed = check_out_dir(&run, config, resume)?;
    let goes_on = resumed.is_some();
    // A run keeps the dictionaries that it began with, whatever was prepared since.
    let (words, answers) = if goes_on { dictionaries_of(&run)? } else { dictionaries(config)? };
    let dataset = |name: &str| split::dataset(config, name, &words, &answers).map(Arc::new);
    let train = dataset("train")?;
    let val = if config.data.contains_key("val") { Some(dataset("val")?) } else { None };
    if val.is_none() && config.train.patience > 0 {
        bail!(
            "{}: train.patience = {} needs a split \"val\" to judge by",
            config.path.display(),
            config.train.patience
        );
    }
    if val.is_none() {
        let names: Vec<&str> = config.data.keys().map(String::as_str).collect();
        tracing::warn!(
            "{}: there is no split \"val\" (it has: {}), so nothing is validated",
            config.path.display(),
            names.join(", ")
        );
    }
    if train.split().annotations.is_empty() {
        bail!("{}: no annotations to learn from: give its composition a_jsons", config.place("train"));
    }
    if let Some(val) = val.as_ref().filter(|val| val.feature_dim() != train.feature_dim()) {
        bail!(
            "{} has {} numbers a region, and {} has {}: extract val with --like the training file",
            val.source_names(),
            val.feature_dim(),
            train.source_names(),
            train.feature_dim()
        );
    }

    let device = parse_device(&config.device)?;
    let dims = DataDims {
        n_words: words.len() as i64,
        n_answers: answers.len() as i64,
        feature_dim: train.feature_dim() as i64,
    };
    tch::manual_seed(config.seed as i64);
    let vs = VarStore::new(device);
    let model = Baseline::new(vs.root(), &config.model, dims);
    // A run that goes on has learnt its weights further.
    if let Some(init) = config.model.init.as_ref().filter(|_| !goes_on) {
        begin_with(init, &vs, config, &words, &answers)?;
    }
    if let Some(glove) = config.model.lm.glove.as_ref().filter(|_| !goes_on) {
        let vectors = read_word_vectors(glove, &words, config)?;
        model.word_embedding().set_vectors(vectors.numbers());
    }
    let names: Vec<String> = vs.variables().into_keys().collect();
    config.train.optim.check_names(&names).map_err(anyhow::Error::msg)?;
    let n_parameters: usize = vs.trainable_variables().iter().map(|variable| variable.numel()).sum();
    eprintln!(
        "train: {} questions | val: {} | {} words, {} answers | {:.1} M parameters on {device:?}",
        train.len(),
        val.as_ref().map_or(0, |val| val.len()),
        words.len(),
        answers.len(),
        n_parameters as f64 / 1e6
    );

    let loader = |dataset: &Arc<Dataset>, batch_size, sampler| {
        let options = LoaderOptions { batch_size, sampler, seed: config.seed, ..LoaderOptions::default() };
        Loader::new(dataset.clone(), options)
    };
    // Nothing is lost where a dry run is stopped at once.
    let finish_the_step = (!dry_run).then(FinishTheStep::new);
    let val_loader = val.as_ref().map(|val| loader(val, split::answering_batch_size(config), Sampler::Sequential));
    let train_loader = loader(&train, config.train.batch_size, config.train.sampler);
    let mut trainer = Trainer {
        loss: config.model.loss,
        seed: config.seed,
        val: val_loader.as_ref(),
        header: dims.to_header(),
        ..Trainer::new(&model, &vs, &config.train, &train_loader, &run)
    };
    if let Some(finish_the_step) = &finish_the_step {
        trainer.stop = finish_the_step.flag();
    }
    if dry_run {
        let n_done = run.progress()?.map_or(0, |progress| progress.epoch);
        print(&dry_run::report(config, &trainer, config.train.n_epochs.saturating_sub(n_done))?)?;
        return Ok(None);
    }
    let _lock = run.lock()?;
    let notes = resumed.as_ref().map(Resumed::notes).unwrap_or_default();
    write_atomic(&config.out_dir.join("config.toml"), format!("{notes}{}", config.to_toml()).as_bytes())?;
    if !goes_on {
        words.save(&config.out_dir.join("words.json"))?;
        answers.save(&config.out_dir.join("answers.json"))?;
    }
    match &resumed {
        Some(resumed) => eprintln!("going on after {}{}", place(resumed.at), resumed.changes()),
        None if resume => eprintln!("nothing is saved in {} yet: starting at the first epoch", run.path().display()),
        None => {}
    }
    match trainer.run(&mut watch::show(config.train.n_epochs))? {
        Outcome::Finished { progress, last, best } => Ok(Some(Trained { epoch: progress.epoch, last, best })),
        Outcome::Stopped(at) => {
            bail!("stopped after {}, and saved: go on with `{}`", place(at), resume_command(&run))
        }
    }
}

/// A place in a run, in words.
fn place(at: Place) -> String {
    match at.batch {
        0 => format!("epoch {}", at.epoch),
        batch => format!("batch {batch} of epoch {}", at.epoch + 1),
    }
}

/// What goes on with a run, whatever was `--set` when it began.
fn resume_command(run: &RunDir) -> String {
    let config = run.path().join("config.toml");
    let here = std::env::current_dir().unwrap_or_default();
    let config = config.strip_prefix(here).unwrap_or(&config).display().to_string();
    let quote = if config.contains(char::is_whitespace) { "'" } else { "" };
    format!("vqa train --config {quote}{config}{quote} --resume")
}

/// Begins with the weights of a file.
fn begin_with(init: &Path, vs: &VarStore, config: &Config, words: &WordDict, answers: &AnswerDict) -> Result<()> {
    if config.model.lm.glove.is_some() {
        bail!("model.init and model.lm.glove both say which word vectors to begin with: leave one out");
    }
    // Weights of a run belong to its dictionaries; others come without any.
    let beside = |name: &str| Some(init.with_file_name(name)).filter(|path| path.exists());
    let other_words = beside("words.json").map(|path| WordDict::load(&path)).transpose()?;
    let other_answers = beside("answers.json").map(|path| AnswerDict::load(&path)).transpose()?;
    if other_words.is_some_and(|other| other.words() != words.words())
        || other_answers.is_some_and(|other| other.answers() != answers.answers())
    {
        bail!(
            "{}: the dictionaries beside it are other ones than the run would have: set dict.words and dict.answers to them",
            init.display()
        );
    }
    load_weights(vs, init)?;
    eprintln!("init: weights of {}", init.display());
    Ok(())
}

/// Reads pretrained word vectors, and says which words have none.
fn read_word_vectors(path: &Path, words: &WordDict, config: &Config) -> Result<WordVectors> {
    /// Words that are named.
    const SHOWN: usize = 5;
    let progress = Progress::new("glove", "bytes", std::fs::metadata(path).map_or(0, |file| file.len()));
    let vectors = WordVectors::read(path, words, &|n| progress.add(n))?;
    drop(progress);
    let dim = config.model.lm.word_emb_dim;
    if vectors.dim() as i64 != dim {
        bail!("{}: its vectors have {} numbers, and model.lm.word_emb_dim = {dim}", path.display(), vectors.dim());
    }
    if vectors.missing().len() == words.len() {
        bail!("{}: it has no vector for any of the {} words: is it of another language?", path.display(), words.len());
    }
    let missing: Vec<&str> =
        vectors.missing().iter().take(SHOWN).map(|&id| words.words()[id as usize].as_str()).collect();
    eprintln!(
        "glove: vectors for {} of {} words{}",
        words.len() - vectors.missing().len(),
        words.len(),
        if missing.is_empty() { String::new() } else { format!(", not for {} …", missing.join(", ")) }
    );
    Ok(vectors)
}

/// A run that goes on.
struct Resumed {
    /// Where it stands.
    at: Place,
    /// Keys whose values differ from before, with both values.
    changed: Vec<(String, String, String)>,
    /// Notes on earlier changes.
    earlier_notes: String,
}

impl Resumed {
    /// What is other than before, for the user.
    fn changes(&self) -> String {
        let changed: Vec<String> = self.changed.iter().map(in_words).collect();
        if changed.is_empty() { String::new() } else { format!("; changed: {}", changed.join("; ")) }
    }

    /// Comments for the head of the run's config: which values had keys that make other numbers, and until when.
    fn notes(&self) -> String {
        let mut notes = self.earlier_notes.clone();
        for (key, _, before) in self.changed.iter().filter(|(key, ..)| OF_LATER_STEPS.contains(&key.as_str())) {
            notes.push_str(&format!("# until step {}: {key} = {before}\n", self.at.step));
        }
        notes
    }
}

fn in_words((key, now, before): &(String, String, String)) -> String {
    format!("{key} = {now}, was {before}")
}

/// Refuses to mix two runs in one directory. Returns the run there, if it goes on.
fn check_out_dir(run: &RunDir, config: &Config, resume: bool) -> Result<Option<Resumed>> {
    let out_dir = run.path().display();
    let progress = run.progress()?;
    if progress.is_none() && run.checkpoints()?.is_empty() {
        // Nothing can be lost, and another try may have another config.
        return Ok(None);
    }
    let config_path = run.path().join("config.toml");
    if !config_path.exists() {
        bail!("{out_dir}: there is a run in it, but no config.toml: choose another out_dir");
    }
    let changed = config.differences(&Config::load(&config_path, &[])?);
    let refused: Vec<String> =
        changed.iter().filter(|(key, now, before)| !may_differ(key, now, before, resume)).map(in_words).collect();
    if !refused.is_empty() {
        let (refused, go_on) = (refused.join("; "), resume_command(run));
        if resume {
            bail!("{out_dir}: --resume cannot change {refused}: go on with `{go_on}`, or choose another out_dir");
        }
        bail!(
            "{out_dir}: a run with another config is in it ({refused}): choose another out_dir, or go on with that run: `{go_on}`"
        );
    }
    match progress {
        Some(at) if resume => {
            let text = std::fs::read_to_string(&config_path).map_err(vqa_data::Error::io("read", &config_path))?;
            let earlier_notes =
                text.lines().take_while(|line| line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
            Ok(Some(Resumed { at, changed, earlier_notes }))
        }
        Some(at) => bail!(
            "{out_dir}: this run is in it already, saved after {}: go on with --resume, or choose another out_dir",
            place(at)
        ),
        None => bail!("{out_dir}: there are checkpoints in it, but no state/ to go on from: choose another out_dir"),
    }
}

/// Whether a run may go on with another value of a key. Files may have been moved, but keep their names.
fn may_differ(key: &str, now: &str, before: &str, resume: bool) -> bool {
    let names = |paths: &str| -> Vec<String> {
        paths.split('"').map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    };
    let is_path = key.starts_with("data.") || ["dict.words", "dict.answers", "model.lm.glove"].contains(&key);
    key == "out_dir"
        || resume && (FREE.contains(&key) || OF_LATER_STEPS.contains(&key) || is_path && names(now) == names(before))
}

/// The dictionaries of a run.
fn dictionaries_of(run: &RunDir) -> Result<(WordDict, AnswerDict)> {
    let words = WordDict::load(&run.path().join("words.json"))?;
    Ok((words, AnswerDict::load(&run.path().join("answers.json"))?))
}

/// The dictionaries that `prepare` made.
fn dictionaries(config: &Config) -> Result<(WordDict, AnswerDict)> {
    let made = |path: &Path| {
        if path.exists() {
            return Ok(());
        }
        bail!("{}: no such file; make the dictionaries with `vqa prepare` first", path.display())
    };
    made(&config.dict.words)?;
    made(&config.dict.answers)?;
    Ok((WordDict::load(&config.dict.words)?, AnswerDict::load(&config.dict.answers)?))
}
