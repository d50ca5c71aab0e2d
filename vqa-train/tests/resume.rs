//! A run that is stopped, fails or is killed gives, once resumed, the same result as an uninterrupted one, byte for
//! byte.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::{ChannelStats, ElementType, Extraction, Grid, PixelGrid, list_images};
use vqa_data::files::IfExists;
use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};
use vqa_data::shapes::{ShapesSpec, ShapesSplit, write_shapes};
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::loss::LossKind;
use vqa_model::run::RunDir;
use vqa_model::{DataDims, ModelInput, ModelOutput, VqaModel};

use vqa_train::distributed::SingleProcess;
use vqa_train::run::{Best, RunLock};
use vqa_train::{AdamaxConfig, Error, Event, Outcome, Position, TrainConfig, Trainer};

/// The data of a small shapes world, and a directory for the runs of a test.
struct World {
    train: Arc<Dataset>,
    val: Arc<Dataset>,
    dims: DataDims,
    dir: tempfile::TempDir,
}

fn world() -> World {
    // Tests run in parallel, and the model is tiny: several threads would only wait for each other.
    tch::set_num_threads(1);
    static DATA: LazyLock<([Arc<Dataset>; 2], DataDims)> = LazyLock::new(make_data);
    let ([train, val], dims) = DATA.clone();
    World { train, val, dims, dir: tempfile::tempdir().unwrap() }
}

/// Creates training and validation data. Its files stay mapped although their directory is deleted.
fn make_data() -> ([Arc<Dataset>; 2], DataDims) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_shapes(&data, ShapesSpec { n_train: 24, n_val: 12, seed: 3 }, &|_| {}).unwrap();
    let grid = Grid { rows: 2, columns: 2, whole: true, patch: 2 };
    let files = |name: &str| ShapesSplit::files(&data, name);
    let pictures = list_images(&files("train").images).unwrap();
    let stats = ChannelStats::measure(&pictures, &|_| {}).unwrap();
    let extractor = &PixelGrid { grid, stats };
    let extraction = Extraction { extractor, element_type: ElementType::F32, shard: None, batch_size: None };
    let config = |name: &str| {
        let features = dir.path().join(format!("{name}.h5"));
        let files = files(name);
        extraction.write(&list_images(&files.images).unwrap(), &features, IfExists::Refuse, &|_| {}).unwrap();
        let (q_jsons, a_jsons) = (vec![files.questions], vec![files.annotations]);
        SplitConfig::from(vec![SourceConfig { q_jsons, a_jsons, features: Some(features), images: None }])
    };
    let configs = [config("train"), config("val")];
    let splits = configs.each_ref().map(|config| Split::load(config).unwrap());
    let (words, answers) = build_dictionaries(&splits, &DictConfig { min_answer_count: 1, ..DictConfig::default() });
    let [train, val] = splits;
    let open = |split, config| Arc::new(Dataset::open(split, config, &words, &answers, 14).unwrap());
    let dims = DataDims {
        n_words: words.len() as i64,
        n_answers: answers.len() as i64,
        feature_dim: grid.feature_dim() as i64,
    };
    ([open(train, &configs[0]), open(val, &configs[1])], dims)
}

/// A failure of a model in training.
#[derive(Clone, Copy, PartialEq)]
enum Accident {
    NanLoss,
    NanValidation,
    NanGradient,
    OutOfMemory,
}

/// A small version of the article's model that fails in its n-th training pass, or in the validation after it, and can
/// give the same answer to every validation question.
struct Model {
    baseline: Baseline,
    accident: Option<(u64, Accident)>,
    n_passes: Cell<u64>,
    always: Cell<Option<i64>>,
}

impl VqaModel for Model {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        let mut output = self.baseline.forward(input, train);
        if let (false, Some(answer)) = (train, self.always.get()) {
            output.logits = output.logits.zeros_like();
            let _ = output.logits.narrow(1, answer, 1).fill_(1.0);
        }
        if train {
            self.n_passes.set(self.n_passes.get() + 1);
        }
        let is_now = |accident| train == (accident != Accident::NanValidation);
        let now = self.accident.filter(|&(pass, accident)| is_now(accident) && pass == self.n_passes.get());
        match now.map(|(_, accident)| accident) {
            None => {}
            Some(Accident::NanLoss | Accident::NanValidation) => output.logits = &output.logits * f64::NAN,
            // Adds 0, but the derivative of the root is infinite there.
            Some(Accident::NanGradient) => output.logits = &output.logits + (&output.logits * 0.0).sqrt(),
            // More than a process can address.
            Some(Accident::OutOfMemory) => drop(Tensor::zeros([1 << 46], (Kind::Float, Device::Cpu))),
        }
        output
    }
}

/// The settings of a training process, and what it does at each event.
struct Sitting<'a> {
    config: TrainConfig,
    sampler: Sampler,
    accident: Option<(u64, Accident)>,
    dropout: bool,
    on_event: &'a mut dyn FnMut(&Event, &Model, &AtomicBool),
}

/// Held while training: the random number generator belongs to the process, so only one run at a time can use it.
static TRAINING: Mutex<()> = Mutex::new(());

/// Trains from where the run stands, as a separate process would.
fn train(world: &World, run: &Path, sitting: Sitting) -> vqa_train::Result<Outcome> {
    let Sitting { config, sampler, accident, dropout, on_event } = sitting;
    let _training = TRAINING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut model: ModelConfig = serde_json::from_str(
        r#"{"hid_dim": 8, "lm": {"word_emb_dim": 4, "dropout": 0.1, "n_layers": 2}, "topdown_att": {"hid_dim": 8}, "mlp": {"hid_dim": 8}}"#,
    )
    .unwrap();
    model.loss = LossKind::Logistic;
    if !dropout {
        (model.lm.dropout, model.topdown_att.dropout, model.mlp.dropout) = (0.0, 0.0, 0.0);
    }
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let baseline = Baseline::new(vs.root(), &model, world.dims);
    let model = Model { baseline, accident, n_passes: Cell::new(0), always: Cell::new(None) };
    let loader = |dataset: &Arc<Dataset>, sampler| {
        Loader::new(dataset.clone(), LoaderOptions { batch_size: 16, sampler, seed: 5, ..LoaderOptions::default() })
    };
    let stop = AtomicBool::new(false);
    let trainer = Trainer {
        model: &model,
        vs: &vs,
        loss: LossKind::Logistic,
        config: &config,
        seed: 5,
        train: &loader(&world.train, sampler),
        val: Some(&loader(&world.val, Sampler::Sequential)),
        run: &RunDir::new(run),

        stop: &stop,
        collective: &SingleProcess,
    };
    trainer.run(&mut |event| on_event(&event, &model, &stop))
}

fn config() -> TrainConfig {
    TrainConfig { n_epochs: 3, batch_size: 16, log_every: 3, warmup_steps: 10, ..TrainConfig::default() }
}

fn plain(config: TrainConfig) -> Sitting<'static> {
    Sitting {
        config,
        sampler: Sampler::Random,
        accident: None,
        dropout: true,
        on_event: Box::leak(Box::new(|_: &Event, _: &Model, _: &AtomicBool| {})),
    }
}

/// Returns the contents of a run's directory, except for durations and everything that depends on the process.
fn contents(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for directory in [run.to_owned(), run.join("state")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_file() && name != "lock" {
                let bytes = fs::read(&path).unwrap();
                found.insert(name, bytes);
            }
        }
    }
    // The title of the curves is the directory's name.
    if let Some(svg) = found.get_mut("curves.svg") {
        let title = format!("\n{}\n", run.file_name().unwrap().display());
        let text = String::from_utf8(std::mem::take(svg)).unwrap();
        assert!(text.contains(&title));
        *svg = text.replacen(&title, "\n", 1).into_bytes();
    }
    let metrics = String::from_utf8(found.remove("metrics.jsonl").unwrap()).unwrap();
    let without_durations = metrics.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut()
            .unwrap()
            .retain(|key, _| !key.ends_with("_ms") && key != "samples_per_s" && key != "seconds");
        line.to_string() + "\n"
    });
    found.insert("metrics.jsonl".to_owned(), without_durations.collect::<String>().into_bytes());
    found
}

#[track_caller]
fn assert_same(run: &Path, whole: &Path) {
    let (found, expected) = (contents(run), contents(whole));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let text = |of: &BTreeMap<String, Vec<u8>>| String::from_utf8(of["metrics.jsonl"].clone()).unwrap();
    assert_eq!(text(&found), text(&expected));
    for (name, bytes) in found {
        assert!(bytes == expected[&name], "{name} has other bytes");
    }
}

#[test]
fn stopped_after_each_step_and_in_each_validation() {
    let world = world();
    for (sampler, val_freq) in [(Sampler::Random, 1), (Sampler::Grouped, 2)] {
        let config = TrainConfig { val_freq, ..config() };
        let (whole, run) =
            (world.dir.path().join(format!("whole{val_freq}")), world.dir.path().join(format!("run{val_freq}")));
        let mut expected = Vec::new();
        let mut record = |event: &Event, _: &Model, _: &AtomicBool| {
            if let Event::Step { metrics, batch, .. } = event {
                expected.push((metrics.epoch, *batch, metrics.step, metrics.loss.to_bits(), metrics.lr.to_bits()));
            }
        };
        train(
            &world,
            &whole,
            Sitting { config: config.clone(), sampler, accident: None, dropout: true, on_event: &mut record },
        )
        .unwrap();
        let n_batches = world.train.len().div_ceil(16);
        assert!(n_batches > 3 && expected.len() == 3 * n_batches);

        let mut found = Vec::new();
        let (mut n_sittings, mut validated) = (0, Vec::new());
        loop {
            let epoch = Position::saved_in(&RunDir::new(&run)).unwrap().map_or(0, |position| position.epoch);
            let mut stop_at_once = |event: &Event, _: &Model, stop: &AtomicBool| match event {
                Event::Step { metrics, batch, .. } => {
                    found.push((metrics.epoch, *batch, metrics.step, metrics.loss.to_bits(), metrics.lr.to_bits()));
                    stop.store(true, Ordering::Relaxed);
                }
                // Only once for each epoch, or the run would never finish.
                Event::Validation { .. } if !validated.contains(&epoch) => {
                    validated.push(epoch);
                    stop.store(true, Ordering::Relaxed);
                }
                _ => {}
            };
            let sitting =
                Sitting { config: config.clone(), sampler, accident: None, dropout: true, on_event: &mut stop_at_once };
            n_sittings += 1;
            match train(&world, &run, sitting).unwrap() {
                Outcome::Finished { position, .. } => {
                    assert_eq!(position, Position { epoch: 3, batch: 0, step: 3 * n_batches as u64 });
                    break;
                }
                Outcome::Stopped(position) => {
                    assert_eq!(Position::saved_in(&RunDir::new(&run)).unwrap(), Some(position));
                    assert_eq!(position.step, position.epoch * n_batches as u64 + position.batch);
                }
            }
        }
        // One for each step, one for each validation, and one that only has to finish the last epoch.
        assert_eq!(n_sittings, 3 * n_batches + validated.len() + 1);
        assert_eq!(found, expected);
        assert_same(&run, &whole);
    }
}

#[test]
fn accidents_lose_nothing_that_was_saved() {
    let world = world();
    let whole = world.dir.path().join("whole");
    train(&world, &whole, plain(config())).unwrap();
    let n_batches = world.train.len().div_ceil(16) as u64;
    // In the second epoch; the state was saved two steps before.
    let checkpoint_every = n_batches + 1;
    for (name, accident) in [
        ("loss", Accident::NanLoss),
        ("validation", Accident::NanValidation),
        ("gradient", Accident::NanGradient),
        ("memory", Accident::OutOfMemory),
    ] {
        let pass = if accident == Accident::NanValidation { 2 * n_batches } else { n_batches + 3 };
        let run = world.dir.path().join(name);
        // A NaN in a gradient is found when the state would be saved; the loss is finite until then.
        let checkpoint_every = if accident == Accident::NanGradient { pass } else { checkpoint_every };
        let config = TrainConfig { checkpoint_every, ..config() };
        let sitting = Sitting { accident: Some((pass, accident)), ..plain(config.clone()) };
        let error = train(&world, &run, sitting).unwrap_err();
        let said = error.to_string();
        let saved = Position {
            epoch: 1,
            batch: if accident == Accident::NanGradient { 0 } else { 1 },
            step: if accident == Accident::NanGradient { n_batches } else { n_batches + 1 },
        };
        match &error {
            Error::Diverged { loss, epoch: 2, batch: 3, step, question_ids, .. } => {
                assert!(loss.is_nan() && *step == pass && accident == Accident::NanLoss);
                let order = Sampler::Random.order(&world.train, 16, 5, 2);
                let expected: Vec<u64> =
                    order[32..37].iter().map(|&i| world.train.split().questions[i].question_id).collect();
                assert_eq!(question_ids, &expected);
                assert!(
                    said.contains("the loss is NaN at epoch 2, batch 3") && said.contains("lower train.optim.lr"),
                    "{said}"
                );
            }
            Error::ValidationDiverged { loss, epoch: 2, step, .. } => {
                assert!(loss.is_nan() && *step == pass && accident == Accident::NanValidation);
                let words = format!("the validation loss is NaN after epoch 2, step {step}: lower train.optim.lr");
                assert!(said.contains(&words), "{said}");
                assert!(!run.join("model_2.safetensors").exists());
                let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
                assert_eq!(metrics.matches("\"kind\":\"epoch\"").count(), 1, "{metrics}");
            }
            Error::NotFinite { step, .. } => {
                assert!(*step == pass && accident == Accident::NanGradient);
                assert!(said.contains("was not saved: lower train.optim.lr"), "{said}");
            }
            Error::OutOfMemory { batch_size: 16, .. } => {
                assert!(accident == Accident::OutOfMemory);
                assert!(said.contains("lower train.batch_size (now 16)"), "{said}");
            }
            other => panic!("{other}"),
        }
        let words = format!("state.safetensors (of step {}) and ", saved.step);
        assert!(said.contains(&words) && said.contains("model_1.safetensors; --resume continues"), "{said}");
        assert_eq!(Position::saved_in(&RunDir::new(&run)).unwrap(), Some(saved));
        train(&world, &run, plain(config)).unwrap();
        assert_same(&run, &whole);
    }
    // Before anything is saved.
    let sitting = Sitting { accident: Some((2, Accident::NanLoss)), ..plain(config()) };
    let error = train(&world, &world.dir.path().join("early"), sitting).unwrap_err().to_string();
    assert!(error.ends_with("nothing was saved before"), "{error}");
    // Any other panic is a bug, and remains a panic.
    let mut bug = |_: &Event, _: &Model, _: &AtomicBool| panic!("a bug");
    let sitting = Sitting { on_event: &mut bug, ..plain(config()) };
    let run = world.dir.path().join("bug");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| train(&world, &run, sitting))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"a bug"));
}

/// Returns the mean soft score of giving this answer to every question of the validation split.
fn score_of(world: &World, answer: i64) -> f64 {
    let loader =
        Loader::new(world.val.clone(), LoaderOptions { sampler: Sampler::Sequential, ..LoaderOptions::default() });
    let total: f64 = loader
        .epoch(0, 0)
        .map(|batch| batch.unwrap())
        .map(|batch| batch.targets.total_score(&vec![answer; batch.len()]))
        .sum();
    100.0 * total / world.val.len() as f64
}

#[test]
fn patience_and_the_checkpoints_that_are_kept() {
    let world = world();
    let mut answers: Vec<(f64, i64)> =
        (0..world.dims.n_answers).map(|answer| (score_of(&world, answer), answer)).collect();
    answers.sort_by(|a, b| b.0.total_cmp(&a.0));
    answers.dedup_by_key(|(score, _)| *score);
    let [high, middle, low] = [0, 1, 2].map(|i| answers[i]);
    // The answer at each validation; the fourth is as good as the best, but not better.
    let script = [middle, high, low, high, middle, high, high];
    let cases = [
        // patience, keep_last, keep_best, val_freq, epochs, remaining checkpoints
        (3, 1, true, 1, 5, vec![2, 5]),
        (3, 2, false, 1, 5, vec![4, 5]),
        (3, 9, false, 1, 5, vec![1, 2, 3, 4, 5]),
        (1, 0, true, 1, 3, vec![1, 2, 3]),
        (0, 1, true, 1, 7, vec![2, 7]),
        (1, 1, true, 2, 6, vec![4, 6]),
    ];
    for (i, (patience, keep_last, keep_best, val_freq, n_trained, left)) in cases.into_iter().enumerate() {
        let config = |n_epochs| TrainConfig { n_epochs, patience, keep_last, keep_best, val_freq, ..config() };
        // Without interruption, and resumed after each epoch.
        for (name, sittings) in [("whole", vec![7]), ("parts", vec![1, 2, 3, 4, 5, 6, 7])] {
            let run = world.dir.path().join(format!("{name}{i}"));
            let mut outcome = None;
            for n_epochs in sittings {
                let epoch =
                    RefCell::new(Position::saved_in(&RunDir::new(&run)).unwrap().map_or(0, |position| position.epoch));
                let mut follow_the_script = |event: &Event, model: &Model, _: &AtomicBool| {
                    if let Event::Epoch(_) = event {
                        *epoch.borrow_mut() += 1;
                    }
                    let n_validated = (*epoch.borrow() / val_freq) as usize;
                    model.always.set(script.get(n_validated).map(|&(_, answer)| answer));
                };
                let sitting = Sitting { on_event: &mut follow_the_script, ..plain(config(n_epochs)) };
                outcome = Some(train(&world, &run, sitting).unwrap());
            }
            let Some(Outcome::Finished { position, best, is_out_of_patience, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(is_out_of_patience, patience > 0, "case {i}, {name}");
            assert_eq!(position.epoch, n_trained, "case {i}, {name}");
            assert_eq!(best, Some(Best { epoch: 2 * val_freq, val_score: high.0 }), "case {i}, {name}");
            assert_eq!(RunDir::new(&run).checkpoints().unwrap(), left, "case {i}, {name}");
        }
        assert_same(&world.dir.path().join(format!("parts{i}")), &world.dir.path().join(format!("whole{i}")));
    }
}

/// A run does not remove checkpoints that somebody else has put into the directory.
#[test]
fn only_checkpoints_that_were_trained_are_removed() {
    let world = world();
    let run = world.dir.path().join("run");
    fs::create_dir(&run).unwrap();
    let others = ["model_4.safetensors", "model_9.safetensors", "model_01.safetensors", "model_best.safetensors"];
    others.iter().for_each(|name| fs::write(run.join(name), "another's").unwrap());
    let config = TrainConfig { keep_last: 1, keep_best: false, ..config() };
    for n_epochs in [2, 3] {
        train(&world, &run, plain(TrainConfig { n_epochs, ..config.clone() })).unwrap();
    }
    assert_eq!(RunDir::new(&run).checkpoints().unwrap(), [3, 4, 9]);
    assert!(others.iter().all(|name| fs::read(run.join(name)).unwrap() == b"another's"));
}

/// The error that ended a run is reported even if the saved state, which the message would name, cannot be read.
#[test]
fn a_damaged_state_hides_no_error() {
    let world = world();
    let n_batches = world.train.len().div_ceil(16) as u64;
    for (accident, words) in [
        (Accident::NanLoss, "the loss is NaN"),
        (Accident::NanGradient, "has NaN"),
        (Accident::OutOfMemory, "out of memory"),
    ] {
        let run = world.dir.path().join(words.replace(' ', "-"));
        let mut damage = |event: &Event, _: &Model, _: &AtomicBool| {
            if let Event::Step { metrics, .. } = event
                && metrics.epoch == 2
            {
                fs::write(run.join("state/state.safetensors"), "damaged").unwrap();
            }
        };
        let sitting = Sitting {
            accident: Some((n_batches + 2, accident)),
            on_event: &mut damage,
            ..plain(TrainConfig { checkpoint_every: n_batches + 2, ..config() })
        };
        let error = train(&world, &run, sitting).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("what was saved before cannot be read: "), "{error}");
    }
}

#[test]
fn what_does_not_belong_together() {
    let world = world();
    let run = world.dir.path().join("run");
    let config = TrainConfig { n_epochs: 1, ..config() };
    train(&world, &run, plain(config.clone())).unwrap();
    // Questions other than those that the run began with.
    let fewer =
        World { train: world.val.clone(), val: world.val.clone(), dims: world.dims, dir: tempfile::tempdir().unwrap() };
    let error = train(&fewer, &run, plain(config.clone())).unwrap_err().to_string();
    let (before, now) = (world.train.len(), world.val.len());
    assert!(error.contains(&format!("has {before} training questions, but now there are {now}")), "{error}");
    // Another model.
    let dims = DataDims { n_answers: world.dims.n_answers + 1, ..world.dims };
    let other = World { dims, train: world.train.clone(), val: world.val.clone(), dir: tempfile::tempdir().unwrap() };
    let error = train(&other, &run, plain(config.clone())).unwrap_err().to_string();
    assert!(error.contains("is not in this model, or has another shape"), "{error}");
    // A damaged file.
    let state = run.join("state/state.safetensors");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    assert!(train(&world, &run, plain(config)).unwrap_err().to_string().contains("state.safetensors"));
}

/// A batch that is split into parts gives the same step as an unsplit one, except for rounding; the run can be resumed
/// like any other.
#[test]
fn batches_in_parts() {
    let world = world();
    let losses = |name: &str, accumulate: usize, ema_decay: f64| {
        let mut losses = Vec::new();
        let mut record = |event: &Event, _: &Model, _: &AtomicBool| match event {
            Event::Step { metrics, .. } => losses.push(metrics.loss),
            Event::Epoch(metrics) => losses.push(metrics.val_score.unwrap()),
            Event::Features { .. } | Event::Validation { .. } => {}
        };
        let run = world.dir.path().join(name);
        for n_epochs in 1..=2 {
            let config = TrainConfig { n_epochs, accumulate, ema_decay, ..config() };
            let sitting = Sitting { dropout: false, on_event: &mut record, ..plain(config) };
            train(&world, &run, sitting).unwrap();
        }
        losses
    };
    let whole = losses("whole", 1, 0.0);
    for (name, accumulate) in [("three", 3), ("sixteen", 16), ("more than there are", 40)] {
        let parts = losses(name, accumulate, 0.0);
        assert_eq!(parts.len(), whole.len());
        for (found, expected) in parts.iter().zip(&whole) {
            assert!((found - expected).abs() < 1e-4 * expected, "{name}: {parts:?}, {whole:?}");
        }
    }
    // The average changes what is validated and checkpointed, not what is trained.
    let averaged = losses("averaged", 1, 0.9);
    assert!(averaged.iter().zip(&whole).filter(|(a, b)| a == b).count() >= whole.len() - 2);
    let weights = |run: &str| fs::read(world.dir.path().join(run).join("model_2.safetensors")).unwrap();
    assert_ne!(weights("averaged"), weights("whole"));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path().join("run"));
    let lock = RunLock::acquire(&run).unwrap();
    let error = RunLock::acquire(&RunDir::new(run.path())).unwrap_err().to_string();
    assert!(error.contains("another process is training in it"), "{error}");
    drop(lock);
    assert!(!run.path().exists(), "nothing was trained");
    // Files that a killed process leaves behind.
    fs::create_dir_all(run.state_dir()).unwrap();
    for name in [".model_1.safetensors.a1b2c3.tmp", "state/.state.safetensors.d4e5f6.tmp", "notes.tmp"] {
        fs::write(run.path().join(name), "half").unwrap();
    }
    RunLock::acquire(&run).unwrap();
    let mut left: Vec<String> =
        fs::read_dir(run.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["notes.tmp", "state"]);
    assert_eq!(fs::read_dir(run.path().join("state")).unwrap().count(), 1);
}

/// A lower learning rate applies from the next step on, and nothing else changes.
#[test]
fn a_rate_that_is_lowered_on_the_way() {
    let world = world();
    let run = world.dir.path().join("run");
    train(&world, &run, plain(TrainConfig { n_epochs: 1, warmup_steps: 0, ..config() })).unwrap();
    let mut rates = Vec::new();
    let mut record = |event: &Event, _: &Model, _: &AtomicBool| {
        if let Event::Step { metrics, .. } = event {
            rates.push(metrics.lr);
        }
    };
    let optim = AdamaxConfig { lr: 0.0005, ..AdamaxConfig::default() };
    let lower = TrainConfig { n_epochs: 2, warmup_steps: 0, optim, ..config() };
    train(&world, &run, Sitting { on_event: &mut record, ..plain(lower) }).unwrap();
    assert!(rates.len() > 3 && rates.iter().all(|&rate| rate == 0.0005), "{rates:?}");
}
