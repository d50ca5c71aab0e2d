use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use tch::nn::VarStore;
use vqa_model::DataDims;
use vqa_model::baseline::Baseline;
use vqa_model::device::warn_if_slow;
use vqa_model::run::RunDir;
use vqa_train::distributed::check_same;
use vqa_train::metrics::EpochMetrics;
use vqa_train::run::{Best, Change, OpenedRun, RunConfig, check_data, check_run_dir, train_loader, val_loader};
use vqa_train::{Outcome, Position, TrainConfig, Trainer};

use crate::args::{Resume, TrainArgs};
use crate::commands::{dictionaries, dry_run, split, watch};
use crate::config::Config;
use crate::interrupt::{Graceful, Stopped};
use crate::process_group::ProcessGroup;
use crate::progress::ProgressBar;
use crate::terminal::{print, say};

/// How training ended.
pub struct Trained {
    /// The epoch of the last checkpoint.
    pub epoch: u64,
    /// The metrics of that epoch, unless it was trained earlier.
    pub last: Option<EpochMetrics>,
    /// The best epoch, if any was validated.
    pub best: Option<Best>,
    /// Whether `patience` is exhausted.
    pub is_out_of_patience: bool,
}

pub fn run(args: &TrainArgs, group: &ProcessGroup) -> Result<()> {
    let mut config = Config::load(&args.config.config, &args.config.set)?;
    if let Some(init) = &args.init {
        config.set_init(init)?;
    }
    let run = RunDir::new(&config.run.out_dir);
    let resume = match args.resume {
        None => false,
        Some(Resume::Always) if !group.is_restarted() => true,
        Some(_) => Position::saved_in(&run)?.is_some(),
    };
    if resume {
        refuse_to_start_elsewhere(&config.path, &run)?;
    }
    if resume && config.run.model.init.is_none() {
        // It may have been given on the command line; the run's config records it.
        let before = run.read_config::<RunConfig>();
        config.run.model.init = before.ok().and_then(|before| before.model.init);
    }
    if args.dry_run {
        if group.n_processes() > 1 {
            bail!("--dry-run works with one process only: run it without the launcher");
        }
        return start(&config, resume, true, group).map(|_| ());
    }
    let Trained { epoch, last, best, is_out_of_patience } = train(&config, resume, group)?;
    let score = last.and_then(|epoch| epoch.val_score).map(|score| format!(", val_score {score:.2}"));
    print(&format!("{}{}", run.checkpoint(epoch).display(), score.unwrap_or_default()))?;
    if let Some(best) = best {
        let checkpoint = run.checkpoint(best.epoch);
        let removed = if checkpoint.exists() { "" } else { " (removed: train.keep_best = false)" };
        print(&format!("best: {}{removed}, val_score {:.2}", checkpoint.display(), best.val_score))?;
    }
    say!("{}", finished(&run, epoch, is_out_of_patience, &config.run.train));
    Ok(())
}

/// A message that a run is finished, and how to train it for longer.
fn finished(run: &RunDir, n_done: u64, is_out_of_patience: bool, config: &TrainConfig) -> String {
    let epochs = if n_done == 1 { "epoch" } else { "epochs" };
    let (mut why, mut settings) = (String::new(), String::new());
    if is_out_of_patience {
        why = format!(" (train.patience = {})", config.patience);
        settings.push_str(" --set train.patience=0");
    }
    if n_done >= config.n_epochs {
        // Suggest half as many epochs again.
        settings.push_str(&format!(" --set train.n_epochs={}", n_done + n_done.div_ceil(2)));
    }
    format!("finished: {n_done} {epochs}{why}; for more: `{}{settings}`", resume_command(run))
}

/// Trains as the config says.
pub fn train(config: &Config, resume: bool, group: &ProcessGroup) -> Result<Trained> {
    Ok(start(config, resume, false, group)?.expect("no dry run"))
}

/// Reads everything, and trains; a dry run only prints what training would take.
fn start(config: &Config, resume: bool, dry_run: bool, group: &ProcessGroup) -> Result<Option<Trained>> {
    let settings = &config.run;
    let device = group.device(&settings.device)?;
    group.join(Some(settings.train.collective_timeout), device)?;
    let run = RunDir::new(&settings.out_dir);
    refuse_to_replace(config, &run)?;
    let made = if !resume && dictionaries::are_missing(config)? {
        check_run_dir(&run, settings, resume).map_err(|error| with_command(error, &run))?;
        Some(dictionaries::make(config)?)
    } else {
        None
    };
    let are_new = made.is_some();
    let open = match (dry_run, group.is_first()) {
        (true, _) => OpenedRun::open_read_only,
        (false, true) => OpenedRun::open,
        (false, false) => OpenedRun::open_as_worker,
    };
    let mut opened = open(&run, settings, resume, made).map_err(|error| with_command(error, &run))?;
    let dataset = |name: &str| split::dataset(config, name, opened.words(), opened.answers()).map(Arc::new);
    let train = dataset("train")?;
    let val = if settings.data.contains_key("val") { Some(dataset("val")?) } else { None };
    check_data(settings, &train, val.as_deref())
        .map_err(|problem| anyhow::anyhow!("{}: {problem}", config.path.display()))?;
    opened.check_data(&train, val.as_deref())?;
    opened.note_processes(group.n_processes())?;
    if val.is_none() {
        let names: Vec<&str> = settings.data.keys().map(String::as_str).collect();
        let hint = settings.misnamed_val().map(|hint| format!("; {hint}")).unwrap_or_default();
        tracing::warn!(
            "{}: no split \"val\" (only {}), so nothing is validated{hint}",
            config.path.display(),
            names.join(", ")
        );
    }
    warn_if_slow(device, settings.train.precision);

    tch::manual_seed(settings.seed as i64);
    let vs = VarStore::new(device);
    let model = Baseline::new(vs.root(), &settings.model, DataDims::of(&train));
    initialise(&opened, settings, &model, &vs)?;
    let names: Vec<String> = vs.variables().into_keys().collect();
    settings.train.optim.check_names(&names).map_err(anyhow::Error::msg)?;
    let n_parameters: usize = vs.trainable_variables().iter().map(|variable| variable.numel()).sum();
    say!(
        "train: {} questions | val: {} | {} words, {} answers | {:.1} M parameters on {device:?}",
        train.len(),
        val.as_ref().map_or(0, |val| val.len()),
        opened.words().len(),
        opened.answers().len(),
        n_parameters as f64 / 1e6
    );

    // A dry run has nothing to save, and can be stopped at once.
    let said = "finishing this step and saving; press Ctrl-C again to stop at once";
    let graceful = (!dry_run).then(|| Graceful::new(said));
    let train_loader = train_loader(settings, train);
    let val_loader = val.map(|val| val_loader(settings, val));
    let mut trainer = Trainer {
        loss: settings.model.loss,
        seed: settings.seed,
        val: val_loader.as_ref(),
        collective: group.collective(),
        ..Trainer::new(&model, &vs, &settings.train, &train_loader, &run)
    };
    if let Some(graceful) = &graceful {
        trainer.stop = graceful.flag();
    }
    let n_epochs = settings.train.n_epochs;
    if dry_run {
        let n_done = opened.resumed().map_or(0, |resumed| resumed.position.epoch);
        print(&dry_run::report(config, &trainer, n_done)?)?;
        return Ok(None);
    }
    // Files are written only after this, when all processes have read the old ones.
    check_same(group.collective(), &[("the config", same_for_all(settings))])?;
    if group.is_first() {
        if are_new {
            dictionaries::save(config, opened.words(), opened.answers())?;
        }
        opened.begin(settings)?;
    }
    match opened.resumed() {
        Some(resumed) => say!("resuming after {}{}", resumed.position, in_words(&resumed.changes)),
        None if resume => say!("nothing saved in {} yet: starting from scratch", run.path().display()),
        None => {}
    }
    match trainer.run(&mut watch::show(n_epochs))? {
        Outcome::Finished { position, last, best, is_out_of_patience } => {
            Ok(Some(Trained { epoch: position.epoch, last, best, is_out_of_patience }))
        }
        Outcome::Stopped(position) => {
            let words = format!("stopped after {position}, and saved: resume with `{}`", resume_command(&run));
            Err(Stopped(words).into())
        }
    }
}

/// The part of the config that all processes of a run must share. Paths and device may differ between machines.
fn same_for_all(settings: &RunConfig) -> String {
    let RunConfig { seed, model, train, .. } = settings;
    let [model, train] = [toml::to_string(model), toml::to_string(train)].map(|text| text.unwrap_or_default());
    format!("seed = {seed}\n{model}{train}")
}

/// Checks that a run does not overwrite files that no run wrote with its own. Only a run's own config has the run's
/// directory as its `out_dir`, and `state/` is what a run makes first.
fn refuse_to_replace(config: &Config, run: &RunDir) -> Result<()> {
    let is_own = || run.words().exists() && run.read_config::<RunConfig>().is_ok_and(|own| own.out_dir == run.path());
    if is_same_file(&config.path, &run.config()) && !is_own() {
        bail!("{}: the run would overwrite it with its own config.toml: choose another out_dir", config.path.display());
    }
    if run.state_dir().exists() || !run.checkpoints()?.is_empty() || is_own() {
        return Ok(());
    }
    // Dictionaries are written as they were read.
    let bytes = |path: &Path| std::fs::read(path);
    let is_copy = |path: &Path, of: &Path| bytes(path).is_ok_and(|own| bytes(of).is_ok_and(|other| own == other));
    let dict = &config.run.dict;
    let files = [
        (run.config(), None),
        (run.words(), Some(&dict.words)),
        (run.answers(), Some(&dict.answers)),
        (run.metrics(), None),
        (run.curves(), None),
    ];
    match files.into_iter().find(|(path, source)| path.is_file() && !source.is_some_and(|of| is_copy(path, of))) {
        Some((path, _)) => bail!(
            "{}: no run wrote it, and this one would overwrite it: move it away, or choose another out_dir",
            path.display()
        ),
        None => Ok(()),
    }
}

/// Checks that a run that was moved is not started again at its old path: `--resume` with the config of a saved run must
/// not find an `out_dir` without anything saved.
fn refuse_to_start_elsewhere(config: &Path, run: &RunDir) -> Result<()> {
    let Some(beside) = config.parent().map(RunDir::new).filter(|beside| is_same_file(config, &beside.config())) else {
        return Ok(());
    };
    if beside.state().exists() && !run.state().exists() {
        bail!(
            "nothing saved in {}, but the config is that of a run in {}: if it was moved, pass --set out_dir={}",
            run.path().display(),
            beside.path().display(),
            beside.path().display()
        );
    }
    Ok(())
}

/// Whether two paths lead to the same file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The changed keys, as a message.
fn in_words(changes: &[Change]) -> String {
    let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
    if changes.is_empty() { String::new() } else { format!("; changed: {}", changes.join("; ")) }
}

/// Adds the command that resumes a run to an error that suggests resuming it.
fn with_command(error: vqa_train::Error, run: &RunDir) -> anyhow::Error {
    match error {
        vqa_train::Error::AnotherRun { .. } | vqa_train::Error::CannotChange { .. } => {
            anyhow::anyhow!("{error}: `{}`", resume_command(run))
        }
        other => other.into(),
    }
}

/// The command that resumes a run, however it was started.
fn resume_command(run: &RunDir) -> String {
    let config = run.config();
    let here = std::env::current_dir().unwrap_or_default();
    let config = config.strip_prefix(here).unwrap_or(&config).display().to_string();
    let config = shlex::try_quote(&config).map_or_else(|_| config.clone(), |quoted| quoted.into_owned());
    format!("vqa train --config {config} --resume")
}

/// Initialises a new run from the weights or word vectors that its config names, and prints a message.
fn initialise(opened: &OpenedRun, settings: &RunConfig, model: &Baseline, vs: &VarStore) -> Result<()> {
    /// The maximum number of missing words to list.
    const SHOWN: usize = 5;
    if let Some(path) = opened.init_weights(settings, vs)? {
        say!("init: weights of {}", path.display());
    }
    let Some(path) = opened.word_vectors(settings) else { return Ok(()) };
    let progress = ProgressBar::new("glove", "bytes", std::fs::metadata(path).map_or(0, |file| file.len()));
    let missing = opened.init_word_vectors(path, settings, model, &|n| progress.add(n))?;
    drop(progress);
    let words = opened.words();
    let named: Vec<&str> = missing.iter().take(SHOWN).map(|&id| words.words()[id as usize].as_str()).collect();
    say!(
        "glove: vectors for {} of {} words{}",
        words.len() - missing.len(),
        words.len(),
        if named.is_empty() { String::new() } else { format!(", none for {} …", named.join(", ")) }
    );
    Ok(())
}
