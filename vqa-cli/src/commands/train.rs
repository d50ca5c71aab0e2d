use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use tch::nn::VarStore;
use vqa_data::{AnswerDict, Dataset, Loader, LoaderOptions, Sampler, WordDict, WordVectors, write_atomic};
use vqa_model::{Baseline, DataDims, load_weights, parse_device};
use vqa_train::{EpochMetrics, Outcome, RunDir, Trainer};

use crate::args::TrainArgs;
use crate::commands::{dry_run, split, watch};
use crate::config::Config;
use crate::interrupt::FinishTheStep;
use crate::terminal::{Progress, print};

/// Keys that a resumed run may have otherwise than the run before: they change no number in it.
const RESUMABLE: [&str; 4] = ["device", "train.n_epochs", "train.log_every", "train.val_freq"];

/// A stop that nobody asks for.
static NEVER: AtomicBool = AtomicBool::new(false);

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
    let last = train(&config, args.resume)?;
    let checkpoint = RunDir::new(&config.out_dir).checkpoint(config.train.n_epochs);
    let score = last.and_then(|epoch| epoch.val_score).map(|score| format!(", val_score {score:.2}"));
    print(&format!("{}{}", checkpoint.display(), score.unwrap_or_default()))
}

/// Trains as the config says. Returns the figures of the last epoch, if one was left to train.
pub fn train(config: &Config, resume: bool) -> Result<Option<EpochMetrics>> {
    start(config, resume, false)
}

/// Reads everything, and trains; or, for a dry run, prints what that would take, and writes nothing.
fn start(config: &Config, resume: bool, dry_run: bool) -> Result<Option<EpochMetrics>> {
    let run = RunDir::new(&config.out_dir);
    let goes_on = check_out_dir(&run, config, resume)?;
    // A run keeps the dictionaries that it began with, whatever was prepared since.
    let (words, answers) = if goes_on { dictionaries_of(&run)? } else { dictionaries(config)? };
    let dataset = |name: &str| split::dataset(config, name, &words, &answers).map(Arc::new);
    let train = dataset("train")?;
    let val = if config.data.contains_key("val") { Some(dataset("val")?) } else { None };
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
    let n_parameters: usize = vs.trainable_variables().iter().map(|variable| variable.numel()).sum();
    eprintln!(
        "train: {} questions | val: {} | {} words, {} answers | {:.1} M parameters on {device:?}",
        train.len(),
        val.as_ref().map_or(0, |val| val.len()),
        words.len(),
        answers.len(),
        n_parameters as f64 / 1e6
    );

    let loader = |dataset: &Arc<Dataset>, sampler| {
        let options = LoaderOptions {
            batch_size: config.train.batch_size,
            sampler,
            seed: config.seed,
            ..LoaderOptions::default()
        };
        Loader::new(dataset.clone(), options)
    };
    // Nothing is lost where a dry run is stopped at once.
    let finish_the_step = (!dry_run).then(FinishTheStep::new);
    let val_loader = val.as_ref().map(|val| loader(val, Sampler::Sequential));
    let trainer = Trainer {
        model: &model,
        vs: &vs,
        loss: config.model.loss,
        config: &config.train,
        seed: config.seed,
        train: &loader(&train, config.train.sampler),
        val: val_loader.as_ref(),
        run: &run,
        header: dims.to_header(),
        stop: finish_the_step.as_ref().map_or(&NEVER, FinishTheStep::flag),
    };
    if dry_run {
        let n_done = run.progress()?.map_or(0, |progress| progress.epoch);
        print(&dry_run::report(config, &trainer, config.train.n_epochs.saturating_sub(n_done))?)?;
        return Ok(None);
    }
    write_atomic(&config.out_dir.join("config.toml"), config.to_toml().as_bytes())?;
    if !goes_on {
        words.save(&config.out_dir.join("words.json"))?;
        answers.save(&config.out_dir.join("answers.json"))?;
    }
    if resume {
        match run.progress()? {
            Some(progress) => eprintln!("going on after epoch {}", progress.epoch),
            None => eprintln!("no epoch was finished in {}: starting at the first", run.path().display()),
        }
    }
    match trainer.run(&mut watch::show(config.train.n_epochs))? {
        Outcome::Finished(last) => Ok(last),
        Outcome::Stopped(progress) => bail!(
            "stopped in epoch {}; {}",
            progress.epoch + 1,
            match progress.epoch {
                0 => "no epoch was finished, so there is nothing to go on from".to_owned(),
                epoch => format!(
                    "{} is the last checkpoint; go on with `vqa train --config {} --resume`",
                    run.checkpoint(epoch).display(),
                    config.path.display()
                ),
            }
        ),
    }
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

/// Refuses to mix two runs in one directory. Returns whether a run there goes on.
fn check_out_dir(run: &RunDir, config: &Config, resume: bool) -> Result<bool> {
    let out_dir = run.path().display();
    if !run.has_checkpoints()? {
        // Nothing can be lost, and another try may have another config.
        return Ok(false);
    }
    if !run.path().join("config.toml").exists() {
        bail!("{out_dir}: there are checkpoints in it, but no config.toml: choose another out_dir");
    }
    let before = Config::load(&run.path().join("config.toml"), &[])?;
    let changed: Vec<String> = config
        .differences(&before)
        .into_iter()
        .filter(|(key, now, before)| !may_differ(key, now, before, resume))
        .map(|(key, now, before)| format!("{key} = {now}, was {before}"))
        .collect();
    if !changed.is_empty() {
        bail!(
            "{out_dir}: a run with another config is in it ({}): choose another out_dir, or take the same config",
            changed.join("; ")
        );
    }
    match run.progress()? {
        Some(_) if resume => Ok(true),
        Some(progress) => bail!(
            "{out_dir}: this run is in it already, {} epoch(s) done: go on with --resume, or choose another out_dir",
            progress.epoch
        ),
        None => bail!("{out_dir}: there are checkpoints in it, but no state/ to go on from: choose another out_dir"),
    }
}

/// Whether a run may go on with another value of a key. Files may have been moved, but keep their names.
fn may_differ(key: &str, now: &str, before: &str, resume: bool) -> bool {
    let names = |paths: &str| -> Vec<String> {
        paths.split('"').map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    };
    let is_path = key.starts_with("data.") || ["dict.words", "dict.answers"].contains(&key);
    key == "out_dir" || resume && (RESUMABLE.contains(&key) || is_path && names(now) == names(before))
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
