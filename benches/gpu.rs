//! Measures how fast the article's model trains on a GPU, on made-up data of VQA2.0's size, and how fast PyTorch trains
//! it on the same GPU.
//!
//!     make bench-gpu
//!
//! This program needs a libtorch to run, but no Rust, no network and no files: it makes its own data, and embeds the
//! Python scripts that it compares itself with. With a `python3` that has torch, run
//!
//! ```text
//! LD_LIBRARY_PATH=$(python3 -c 'import torch; print(torch.__path__[0] + "/lib")') ./bench_gpu
//! ```
//!
//! It trains as `vqa train` does, for full epochs, of which the first does not count. PyTorch trains the reference
//! module of the tests, as fast as it can: see `python/gpu.py`. With `--device cpu --tiny` everything runs in seconds,
//! but the results mean nothing.

// Some of what it writes is only for other benches.
#[allow(dead_code)]
mod json_files;
mod kinds;
mod made_up;
mod pytorch_on_gpu;
mod questions;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use clap::Parser;
use tch::Device;
use tch::nn::VarStore;
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::questions::{AnswerDict, SourceConfig, Split, SplitConfig, WordDict};
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::device::parse_device;
use vqa_model::feed::{FeaturesOnDevice, Precision, SharedStates};
use vqa_model::run::RunDir;
use vqa_model::{DataDims, ModelInput, ModelOutput, TrainingPass, VqaModel};
use vqa_train::{Event, TrainConfig, Trainer};

use crate::kinds::config_of;
use crate::made_up::MadeUp;
use crate::pytorch_on_gpu::Python;

type Error = Box<dyn std::error::Error>;

/// Trains the article's model on made-up data of VQA2.0's size, and has PyTorch do the same.
#[derive(Parser)]
struct Args {
    /// cuda, cuda:1, cpu
    #[arg(long, default_value = "cuda")]
    device: String,
    /// fp32, tf32, bf16
    #[arg(long, value_delimiter = ',', default_value = "bf16,tf32")]
    precision: Vec<String>,
    /// Where features are: always (on the device), never (batch by batch)
    #[arg(long, value_delimiter = ',', default_value = "always,never")]
    features_on_device: Vec<String>,
    /// Order of the questions: grouped (by image), random (as in PyTorch)
    #[arg(long, value_delimiter = ',', default_value = "grouped")]
    sampler: Vec<String>,
    /// Kind of model: article, lstm, concat, layers=2, bidirectional, or several of these: lstm,layers=2
    #[arg(long, default_value = "article")]
    kind: String,
    /// Record no step as a CUDA graph
    #[arg(long)]
    ordinary: bool,
    /// Compare this many losses, at least 20: of recorded and ordinary steps, of another seed, and, without dropout, of
    /// libtorch's layers
    #[arg(long, default_value_t = 0)]
    compare: usize,
    #[arg(long, default_value_t = 443_757)]
    questions: usize,
    #[arg(long, default_value_t = 82_783)]
    images: usize,
    #[arg(long, default_value_t = 36)]
    regions: usize,
    #[arg(long, default_value_t = 2048)]
    feature_dim: usize,
    #[arg(long, default_value_t = 3129)]
    answers: usize,
    #[arg(long, default_value_t = 512)]
    batch_size: usize,
    /// Epochs; the first counts only if it is the last
    #[arg(long, default_value_t = 2)]
    epochs: u64,
    /// Steps to measure in PyTorch
    #[arg(long, default_value_t = 200)]
    python_steps: usize,
    /// The Python with torch
    #[arg(long, env = "PYTHON", default_value = "python3")]
    python: String,
    /// Small sizes, to see that it works
    #[arg(long)]
    tiny: bool,
}

impl Args {
    fn model(&self) -> Result<ModelConfig, String> {
        let mut config = config_of(&self.kind)?;
        if self.tiny {
            (config.hid_dim, config.topdown_att.hid_dim, config.mlp.hid_dim, config.lm.word_emb_dim) = (16, 16, 16, 8);
        }
        Ok(config)
    }
}

fn main() {
    // Shows warnings about anything that runs slower than it could.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    if let Err(error) = run(Args::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(mut args: Args) -> Result<(), Error> {
    if args.tiny {
        (args.questions, args.images, args.regions, args.feature_dim, args.answers) = (640, 120, 5, 16, 40);
        (args.batch_size, args.python_steps) = (64, 3);
    }
    // Before anything else, since libtorch remembers its first look at CUDA.
    let device = parse_device(&args.device)?;
    let dir = tempfile::tempdir()?;
    let (dataset, dims) = make_data(&args, dir.path())?;
    eprintln!(
        "{} questions about {} images of {} x {}, {} words, {} answers; batches of {}; {}",
        dataset.len(),
        dataset.n_images(),
        args.regions,
        args.feature_dim,
        dims.n_words,
        dims.n_answers,
        args.batch_size,
        device_name(device)
    );
    let spec = serde_json::json!({
        "device": args.device, "model": args.model()?, "n_words": dims.n_words, "n_answers": dims.n_answers,
        "n_images": args.images, "n_regions": args.regions, "feature_dim": args.feature_dim,
        "max_len": dataset.encoded().max_len, "batch_size": args.batch_size, "n_steps": args.python_steps,
    });
    let python = Python::new(&args.python, dir.path(), &dataset, &spec)?;
    println!("| features | precision | batches | vqa | PyTorch | ratio |\n| --- | --- | --- | --- | --- | --- |");
    for features in &args.features_on_device {
        for precision in &args.precision {
            let theirs = python.as_ref().and_then(|python| python.train(features, precision));
            for sampler in &args.sampler {
                let steps = if args.ordinary { Steps::Ordinary } else { Steps::Recorded };
                let run = Run { features, precision, sampler, steps, has_dropout: true, seed: 0 };
                let Trained { per_s, seconds, losses } = train(&args, device, &dataset, dims, run, dir.path())?;
                let compared = theirs.as_ref().map_or("| |".to_owned(), |(theirs, how)| {
                    let epoch = args.questions as f64 / theirs;
                    format!("| {theirs:.0}/s, {epoch:.1} s an epoch ({how}) | {:.2} x |", per_s / theirs)
                });
                println!("| {features} | {precision} | {sampler} | {per_s:.0}/s, {seconds:.1} s an epoch {compared}");
                if args.compare > 0 {
                    let of = |run| train(&args, device, &dataset, dims, run, dir.path());
                    let ordinary = of(Run { steps: Steps::Ordinary, ..run })?.losses;
                    compare("recorded steps", &losses, "ordinary ones", &ordinary);
                    let other_seed = of(Run { seed: 1, ..run })?.losses;
                    compare("recorded steps", &losses, "those of another seed", &other_seed);
                    let without = Run { has_dropout: false, ..run };
                    let (losses, layers) = (of(without)?.losses, of(Run { steps: Steps::Layers, ..without })?.losses);
                    compare("recorded steps without dropout", &losses, "libtorch's layers", &layers);
                }
            }
        }
    }
    Ok(())
}

/// Prints how far losses differ.
fn compare(whose: &str, losses: &[f64], of_what: &str, others: &[f64]) {
    let differences = losses.iter().zip(others).map(|(a, b)| (a - b).abs() / a.abs());
    let largest = differences.clone().fold(0.0, f64::max);
    let mean = differences.sum::<f64>() / losses.len() as f64;
    println!("losses of {whose} against {of_what}: relative difference {mean:.2e}, at most {largest:.2e}");
    for i in [0, 4, 9, 19, losses.len() - 1] {
        println!("    step {}: {:.6} and {:.6}", i + 1, losses[i], others[i]);
    }
}

/// The name of the GPU, if `nvidia-smi` is installed.
fn device_name(device: Device) -> String {
    let Device::Cuda(index) = device else { return "on the CPU: its speed means nothing here".to_owned() };
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=name", "--format=csv,noheader", "-i"])
        .arg(index.to_string())
        .output();
    output.map_or_else(|_| format!("GPU {index}"), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Questions and answers as `generate` writes them, read back from their files.
fn make_data(args: &Args, dir: &Path) -> Result<(Arc<Dataset>, DataDims), Error> {
    json_files::write_split(dir, ("train", args.questions, args.images, 0))?;
    let source = SourceConfig {
        q_jsons: vec![dir.join("v2_OpenEnded_mscoco_train2014_questions.json")],
        a_jsons: vec![dir.join("v2_mscoco_train2014_annotations.json")],
        features: None,
        images: None,
    };
    let split = Split::load(&SplitConfig::from(vec![source]))?;
    let words = WordDict::from_questions(split.questions.iter().map(|question| &*question.question));
    let answers: Vec<String> = (0..args.answers).map(json_files::answer).collect();
    let answers = AnswerDict::from_answers(answers.iter().map(String::as_str), 1);
    let dims =
        DataDims { n_words: words.len() as i64, n_answers: answers.len() as i64, feature_dim: args.feature_dim as i64 };
    let sizes = [args.images, args.regions, args.feature_dim];
    let n_places = if args.tiny { 1 << 12 } else { 1 << 22 };
    let dataset = Dataset::new(split, &words, &answers, 14, vec![Arc::new(MadeUp::new(sizes, n_places))])?;
    Ok((Arc::new(dataset), dims))
}

/// Parses a setting by its name in the config.
fn setting<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, Error> {
    Ok(serde_json::from_value(name.into())?)
}

/// How a training step is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Recorded,
    /// Operation by operation.
    Ordinary,
    /// With libtorch's layers and its autograd.
    Layers,
}

/// The model, without recording its steps as CUDA graphs.
struct Unrecorded<'a>(&'a Baseline, Steps);

impl VqaModel for Unrecorded<'_> {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        self.0.forward(input, train)
    }

    fn shared_states(&self) -> Option<SharedStates> {
        self.0.shared_states()
    }

    fn train<'a>(&'a self, input: &'a ModelInput) -> TrainingPass<'a> {
        match self.1 {
            Steps::Layers => TrainingPass::from_forward(self.forward(input, true)),
            _ => self.0.train(input),
        }
    }
}

/// The settings of one training run.
#[derive(Clone, Copy)]
struct Run<'a> {
    features: &'a str,
    precision: &'a str,
    sampler: &'a str,
    steps: Steps,
    has_dropout: bool,
    /// The seed of the dropout.
    seed: u64,
}

struct Trained {
    /// Questions a second in the last epoch.
    per_s: f64,
    /// The duration of the last epoch.
    seconds: f64,
    /// The losses of the first steps, as many as are compared.
    losses: Vec<f64>,
}

fn train(
    args: &Args,
    device: Device,
    dataset: &Arc<Dataset>,
    dims: DataDims,
    Run { features, precision, sampler, steps, has_dropout, seed }: Run,
    dir: &Path,
) -> Result<Trained, Error> {
    tch::manual_seed(1);
    let vs = VarStore::new(device);
    let mut model = args.model()?;
    if !has_dropout {
        (model.topdown_att.dropout, model.mlp.dropout) = (0.0, 0.0);
    }
    let model = Baseline::new(vs.root(), &model, dims);
    let config = TrainConfig {
        n_epochs: args.epochs,
        batch_size: args.batch_size,
        sampler: setting::<Sampler>(sampler)?,
        precision: setting::<Precision>(precision)?,
        features_on_device: setting::<FeaturesOnDevice>(features)?,
        keep_last: 1,
        ..TrainConfig::default()
    };
    let options = LoaderOptions {
        batch_size: args.batch_size,
        sampler: config.sampler,
        seed: 1,
        prefetch: 4,
        ..LoaderOptions::default()
    };
    let loader = Loader::new(dataset.clone(), options);
    let run = RunDir::new(dir.join(format!("{features}-{precision}-{sampler}")));
    let started = std::time::Instant::now();
    let mut trained = Trained { per_s: 0.0, seconds: 0.0, losses: Vec::new() };
    let unrecorded = Unrecorded(&model, steps);
    let model: &dyn VqaModel = if steps == Steps::Recorded { &model } else { &unrecorded };
    let trainer = Trainer { seed, ..Trainer::new(model, &vs, &config, &loader, &run) };
    trainer.run(&mut |event| match event {
        Event::Features { n, of } if n == of => {
            eprintln!("{of} images put on the device in {:.1} s", started.elapsed().as_secs_f64());
        }
        Event::Epoch(epoch) => {
            (trained.per_s, trained.seconds) = (dataset.len() as f64 / epoch.seconds, epoch.seconds);
            eprintln!(
                "vqa, features on device: {features}, {precision}, {sampler}, epoch {}: {:.0}/s, {:.2} s, loss {:.3}",
                epoch.epoch, trained.per_s, epoch.seconds, epoch.train_loss
            );
        }
        Event::Step { metrics, .. } if trained.losses.len() < args.compare => trained.losses.push(metrics.loss),
        _ => {}
    })?;
    fs::remove_dir_all(run.path())?;
    Ok(trained)
}
