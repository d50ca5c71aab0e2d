//! Measures how fast the article's model and its variants train and answer, on made-up questions and features of
//! VQA2.0's sizes.
//!
//! ```text
//! cargo run --release -p vqa-benches --example training -- FEATURES.h5 QUESTIONS.json write BATCHES.safetensors
//! cargo run --release -p vqa-benches --example training -- FEATURES.h5 QUESTIONS.json train|evaluate fp32|bf16 \
//!     grouped|random|sequential [article|lstm|concat|layers=2|bidirectional|lstm,layers=2|…]
//! ```
//!
//! The second form prints JSON. The loader produces the batches on the fly: 512 questions in training, and twice as
//! many in evaluation, as in `vqa evaluate`. Besides the questions a second, it counts the arithmetic of the matrix
//! products that remain when equal rows are computed once. It also reports how fast these products run alone, at their
//! own shapes, and how fast a single large one runs. The first form writes a few batches as tensors, for
//! `python/training.py`.

mod kinds;

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
use vqa_model::baseline::{Baseline, ModelConfig, RnnKind};
use vqa_model::feed::Precision;
use vqa_model::loss::LossKind;
use vqa_model::loss::{dense_targets, loss_and_gradient};
use vqa_model::weights::{Header, write_tensors};
use vqa_model::{DataDims, ModelInput, VqaModel};
use vqa_train::TrainConfig;
use vqa_train::optim::Optimizer;

use crate::kinds::config_of;

const N_ANSWERS: i64 = 3129;
/// Warm-up steps that do not count, in which memory is allocated and pages of the file are mapped.
const N_WARM: usize = 3;
const N_COUNTED: usize = 12;

/// Made-up targets, with as many answers to each question as VQA2.0 has on average, and scores that annotators can
/// give.
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

/// The matrix products with one weight, [`columns`, `inner`], in a step.
struct Products {
    /// The rows of each product in a forward pass. A recurrent layer has one product for each of its steps, other
    /// layers one in all.
    rows: Vec<i64>,
    inner: i64,
    columns: i64,
    /// Whether the input's gradient is computed too. The weight's gradient always takes one product.
    to_input: bool,
}

impl Products {
    fn new(n_rows: usize, inner: i64, columns: i64) -> Products {
        Products { rows: vec![n_rows as i64], inner, columns, to_input: true }
    }

    /// The number of multiplications and additions, in 10^9.
    fn gflop(&self, training: bool) -> f64 {
        let n_products = if training { 2 + i64::from(self.to_input) } else { 1 };
        (2 * n_products * self.rows.iter().sum::<i64>() * self.inner * self.columns) as f64 / 1e9
    }

    /// The shortest time in seconds of these products alone, of `n_times` runs.
    fn seconds(&self, training: bool, kind: Kind, n_times: usize) -> f64 {
        let n_rows = self.rows.iter().sum();
        let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
        let [weight, input, of_output] =
            [[self.columns, self.inner], [n_rows, self.inner], [n_rows, self.columns]].map(random);
        let time = |_| {
            let started = Instant::now();
            let mut first = 0;
            for &n in &self.rows {
                let _ = black_box(input.narrow(0, first, n).mm(&weight.tr()));
                if training && self.to_input {
                    let _ = black_box(of_output.narrow(0, first, n).mm(&weight));
                }
                first += n;
            }
            if training {
                let _ = black_box(of_output.tr().mm(&input));
            }
            started.elapsed().as_secs_f64()
        };
        (0..n_times).map(time).fold(f64::INFINITY, f64::min)
    }
}

/// The products that a batch needs when equal rows are computed once. In a bidirectional network of several layers,
/// those above the first are computed for each distinct question.
fn products(batch: &Batch, dims: DataDims, config: &ModelConfig) -> Vec<Products> {
    let tokens: Vec<&[i64]> = batch.tokens.chunks(batch.max_len).collect();
    let distinct = |part: &dyn Fn(usize) -> std::ops::Range<usize>| -> Vec<i64> {
        let n = |n: usize| tokens.iter().map(|question| &question[part(n)]).collect::<HashSet<_>>().len() as i64;
        (1..=batch.max_len).map(n).collect()
    };
    let beginnings = distinct(&|n| 0..n);
    let endings = distinct(&|n| batch.max_len - n..batch.max_len);
    let (words, texts): (HashSet<_>, HashSet<_>) = (batch.tokens.iter().collect(), tokens.iter().collect());
    let (h, a, m) = (config.hid_dim, config.topdown_att.hid_dim, config.mlp.hid_dim);
    let (lm, b, d) = (&config.lm, batch.len(), dims.feature_dim);
    let gates = if lm.rnn_type == RnnKind::Lstm { 4 * h } else { 3 * h };
    let mut products = vec![Products { to_input: false, ..Products::new(batch.n_images() * batch.max_regions, d, a) }];
    // The inputs of a layer, each with its number of rows and their length.
    let mut sources = vec![(words.len(), lm.word_emb_dim)];
    for layer in 0..lm.n_layers {
        let both = lm.bidirectional && layer > 0;
        let rows =
            |of_length: &Vec<i64>| if both { vec![texts.len() as i64; batch.max_len] } else { of_length.clone() };
        let directions: Vec<Vec<i64>> =
            [Some(&beginnings), lm.bidirectional.then_some(&endings)].into_iter().flatten().map(rows).collect();
        for rows in &directions {
            products.extend(sources.iter().map(|&(n, dim)| Products::new(n, dim, gates)));
            products.push(Products { rows: rows.clone(), ..Products::new(0, h, gates) });
        }
        sources = directions.iter().map(|rows| (rows.iter().sum::<i64>() as usize, h)).collect();
    }
    products.push(Products::new(texts.len(), config.question_dim(), a));
    products.push(Products::new(texts.len(), config.question_dim(), h));
    products.extend([(d, h), (h, m), (m, dims.n_answers)].map(|(inner, columns)| Products::new(b, inner, columns)));
    products
}

/// The peak rate of a matrix product in GFLOP/s, measured with a batch's regions and a layer's weight.
fn matmul_peak(kind: Kind) -> f64 {
    let large = Products { to_input: false, ..Products::new(3420, 2048, 1024) };
    large.gflop(false) / large.seconds(false, kind, 20)
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
    let config = config_of(rest.get(2).unwrap_or(&"article"))?;
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let model = Baseline::new(vs.root(), &config, dims);
    let mut optimizer = Optimizer::new(vs.variables(), &TrainConfig::default());
    let training = *what == "train";
    let (mut n_questions, mut arithmetic, mut needed, mut started) = (0, 0.0, Vec::new(), Instant::now());
    for (i, batch) in loader.epoch(0, 0).take(N_WARM + N_COUNTED).enumerate() {
        if i == N_WARM {
            (n_questions, arithmetic, started) = (0, 0.0, Instant::now());
        }
        let batch = batch?;
        let input = ModelInput::from_batch(&batch, Device::Cpu, precision.kind());
        if training {
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
        needed = products(&batch, dims, &config);
        arithmetic += needed.iter().map(|products| products.gflop(training)).sum::<f64>();
    }
    let seconds = started.elapsed().as_secs_f64();
    // Measured with the products of the last batch.
    let alone: f64 = needed.iter().map(|products| products.gflop(training)).sum::<f64>()
        / needed.iter().map(|products| products.seconds(training, precision.kind(), 3)).sum::<f64>();
    println!(
        "{{\"questions_per_s\": {:.1}, \"products_gflop_per_s\": {:.0}, \"products_alone_gflop_per_s\": {alone:.0}, \
         \"matmul_peak_gflop_per_s\": {:.0}}}",
        n_questions as f64 / seconds,
        arithmetic / seconds,
        matmul_peak(precision.kind())
    );
    Ok(())
}
