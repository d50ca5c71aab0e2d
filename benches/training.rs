//! How fast the article's model and its variants train and answer, on made-up questions and features of VQA2.0's sizes.
//!
//! ```text
//! cargo run --release -p vqa-benches --example training -- FEATURES.h5 QUESTIONS.json write BATCHES.safetensors
//! cargo run --release -p vqa-benches --example training -- FEATURES.h5 QUESTIONS.json train|evaluate fp32|bf16 \
//!     grouped|random|sequential [article|lstm|concat|layers=2|bidirectional]
//! ```
//!
//! The second form prints JSON. Each kind of model but the article's differs from it in one thing. Batches, 512 questions in training and twice as many in evaluation as in `vqa
//! evaluate`, come from the loader as it goes. Beside the questions a second, it counts the arithmetic of the matrix
//! products that are left when what is the same is done once, and says how much of it a single large product does here.
//! The first form writes a few batches as tensors, for `python/training.py`.

use std::collections::HashSet;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Batch, Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::{FeatureFile, RegionSource};
use vqa_data::questions::{Annotations, AnswerDict, SoftTargets, Split, WordDict, read_questions};
use vqa_model::baseline::{AttentionKind, Baseline, ModelConfig, RnnKind};
use vqa_model::feed::Precision;
use vqa_model::loss::LossKind;
use vqa_model::loss::{dense_targets, loss_and_gradient};
use vqa_model::weights::{Header, write_tensors};
use vqa_model::{DataDims, ModelInput, VqaModel};
use vqa_train::TrainConfig;
use vqa_train::optim::Optimizer;

const N_ANSWERS: i64 = 3129;
/// Steps that are not counted: memory is got from the system, and pages of the file are mapped.
const N_WARM: usize = 3;
const N_COUNTED: usize = 12;

/// As many answers to each question as VQA2.0 has on average, their scores being those that annotators can give.
fn targets(batch: &Batch) -> SoftTargets {
    let mut rng = ChaCha8Rng::seed_from_u64(batch.question_ids[0]);
    let mut targets = SoftTargets::default();
    for _ in 0..batch.len() {
        let n = rng.random_range(0..6);
        let mut drawn: Vec<u32> = (0..n).map(|_| rng.random_range(0..N_ANSWERS as u32)).collect();
        drawn.sort_unstable();
        drawn.dedup();
        targets.push(drawn.into_iter().map(|answer| (answer, [0.3, 0.6, 0.9, 1.0][answer as usize % 4])));
    }
    targets
}

/// The article's model, or one that differs from it in one thing.
fn config(kind: &str) -> Result<ModelConfig, String> {
    let mut config = ModelConfig::default();
    match kind {
        "article" => {}
        "lstm" => config.lm.rnn_type = RnnKind::Lstm,
        "concat" => config.topdown_att.kind = AttentionKind::Concat,
        "layers=2" => config.lm.n_layers = 2,
        "bidirectional" => config.lm.bidirectional = true,
        _ => return Err(format!("no kind of model: {kind}")),
    }
    Ok(config)
}

/// Multiplications and additions, in 10^9, of a batch's products in a forward pass, and of those that need a gradient
/// of their input. For models of the kinds above: not for several layers in both directions.
fn gflop(batch: &Batch, dims: DataDims, config: &ModelConfig) -> [f64; 2] {
    let tokens: Vec<&[i64]> = batch.tokens.chunks(batch.max_len).collect();
    let beginnings: HashSet<&[i64]> = tokens.iter().flat_map(|q| (1..=q.len()).map(|n| &q[..n])).collect();
    let endings: HashSet<&[i64]> = tokens.iter().flat_map(|q| (0..q.len()).map(|n| &q[n..])).collect();
    let (words, texts): (HashSet<_>, HashSet<_>) = (batch.tokens.iter().collect(), tokens.iter().collect());
    let (h, a, m) = (config.hid_dim as f64, config.topdown_att.hid_dim as f64, config.mlp.hid_dim as f64);
    let (b, d, e) = (batch.len() as f64, dims.feature_dim as f64, config.lm.word_emb_dim as f64);
    let gates = if config.lm.rnn_type == RnnKind::Lstm { 4.0 * h } else { 3.0 * h };
    let regions = (batch.n_images() * batch.max_regions) as f64 * d * a;
    let direction = |n_states: usize| words.len() as f64 * e * gates + n_states as f64 * gates * h;
    let layers_above = (config.lm.n_layers - 1) as f64 * beginnings.len() as f64 * gates * 2.0 * h;
    let backward = if config.lm.bidirectional { direction(endings.len()) } else { 0.0 };
    let compared = texts.len() as f64 * config.question_dim() as f64 * (a + h);
    let question = direction(beginnings.len()) + backward + layers_above + compared;
    let rest = b * (d * h + h * m + m * dims.n_answers as f64);
    [regions + question + rest, question + rest].map(|products| 2.0 * products / 1e9)
}

/// The most arithmetic a second of a product, in GFLOP/s: of a batch's regions with a layer's weight.
fn matmul_peak(kind: Kind) -> f64 {
    let (m, k, n) = (3420, 2048, 1024);
    let [a, b] = [[m, k], [k, n]].map(|shape| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind));
    let seconds = |_| {
        let started = Instant::now();
        let _ = black_box(a.mm(&b));
        started.elapsed().as_secs_f64()
    };
    (2 * m * k * n) as f64 / (0..20).map(seconds).fold(f64::INFINITY, f64::min) / 1e9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [features, questions, what, rest @ ..] = &arguments[..] else {
        return Err("usage: training FEATURES.h5 QUESTIONS.json write|train|evaluate …".into());
    };
    let file = FeatureFile::open(features)?;
    let all = read_questions(Path::new(questions))?;
    let words = WordDict::from_questions(all.iter().map(|question| &*question.question));
    let questions: Vec<_> = all.into_iter().filter(|question| file.row(question.image_id).is_some()).collect();
    let split =
        Split { source_starts: vec![0, questions.len()], questions, annotations: Annotations::new(), cut_from: None };
    let dataset = Arc::new(Dataset::new(split, &words, &AnswerDict::default(), 14, vec![Arc::new(file)])?);
    let sampler = match (*what, rest.get(1)) {
        ("evaluate", _) => Sampler::Sequential,
        (_, Some(&"random")) => Sampler::Random,
        _ => Sampler::Grouped,
    };
    let batch_size = if *what == "evaluate" { 1024 } else { 512 };
    let loader =
        Loader::new(dataset.clone(), LoaderOptions { batch_size, sampler, seed: 1, ..LoaderOptions::default() });
    let dims =
        DataDims { n_words: words.len() as i64, n_answers: N_ANSWERS, feature_dim: dataset.feature_dim() as i64 };

    if *what == "write" {
        let path = rest.first().ok_or("write where?")?;
        let mut tensors = Vec::new();
        for (i, batch) in loader.epoch(0, 0).take(4).enumerate() {
            let batch = batch?;
            let input = ModelInput::from_batch(&batch, Device::Cpu, Kind::Float);
            let targets = dense_targets(&targets(&batch), N_ANSWERS, Device::Cpu);
            tensors.extend(
                [
                    ("tokens", input.tokens),
                    ("features", input.features),
                    ("image_rows", input.image_rows),
                    ("targets", targets),
                ]
                .map(|(name, tensor)| (format!("{name}.{i}"), tensor)),
            );
        }
        let header = Header::from([("n_words".to_owned(), dims.n_words.to_string())]);
        return Ok(write_tensors(Path::new(path), &tensors, header)?);
    }

    let precision = match rest.first() {
        Some(&"bf16") => Precision::Bf16,
        _ => Precision::Fp32,
    };
    let config = config(rest.get(2).unwrap_or(&"article"))?;
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let model = Baseline::new(vs.root(), &config, dims);
    let mut optimizer = Optimizer::new(vs.variables(), &TrainConfig::default());
    let (mut n_questions, mut arithmetic, mut started) = (0, 0.0, Instant::now());
    for (i, batch) in loader.epoch(0, 0).take(N_WARM + N_COUNTED).enumerate() {
        if i == N_WARM {
            (n_questions, arithmetic, started) = (0, 0.0, Instant::now());
        }
        let batch = batch?;
        let input = ModelInput::from_batch(&batch, Device::Cpu, precision.kind());
        if *what == "train" {
            let pass = model.train(&input);
            let targets = dense_targets(&targets(&batch), N_ANSWERS, Device::Cpu);
            let (loss, of_logits) = loss_and_gradient(LossKind::Logistic, &pass.output.logits, &targets);
            assert!(loss.double_value(&[]).is_finite());
            pass.backward(&of_logits);
            optimizer.apply();
        } else {
            model.infer(&input).best_answers();
        }
        n_questions += batch.len();
        let [forward, with_input_gradient] = gflop(&batch, dims, &config);
        arithmetic += if *what == "train" { 2.0 * forward + with_input_gradient } else { forward };
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"questions_per_s\": {:.1}, \"products_gflop_per_s\": {:.0}, \"matmul_peak_gflop_per_s\": {:.0}}}",
        n_questions as f64 / seconds,
        arithmetic / seconds,
        matmul_peak(precision.kind())
    );
    Ok(())
}
