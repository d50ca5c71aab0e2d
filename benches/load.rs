//! Measures how fast a loader produces the batches of an epoch, compared with plain memory copies, and how much private
//! memory it takes.
//!
//!     cargo run --release -p vqa-benches --example load -- FEATURES.h5 QUESTIONS.json [SAMPLER [BATCHES]]
//!
//! Prints JSON; rates are in GB (10^9 bytes) of float32 features a second. Questions about images that the file lacks
//! are left out.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::{FeatureFile, RegionSource};
use vqa_data::questions::{Annotations, AnswerDict, Split, WordDict, read_questions};

/// The best rate, in GB a second, at which `copy` processes `bytes` bytes in a few runs.
fn best_rate(bytes: usize, mut copy: impl FnMut()) -> f64 {
    let seconds = |()| {
        let started = Instant::now();
        copy();
        started.elapsed().as_secs_f64()
    };
    bytes as f64 / [(); 5].map(seconds).into_iter().fold(f64::INFINITY, f64::min) / 1e9
}

/// The peak private memory of this process in MB. This is what it holds now, since the loader keeps its buffers.
fn private_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kilobytes| kilobytes * 1.024e-3)
}

/// The bytes and questions a second of an epoch, and the peak private memory during it.
fn epoch(loader: &Loader, epoch: u64, n_batches: usize) -> vqa_data::Result<([f64; 2], f64)> {
    let (mut bytes, mut n_questions, mut private) = (0, 0, 0f64);
    let started = Instant::now();
    for batch in loader.epoch(epoch, 0).take(n_batches) {
        let batch = black_box(batch?);
        bytes += batch.features.len() * 4;
        n_questions += batch.len();
        private = private.max(private_mb().unwrap_or(f64::NAN));
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(([bytes, n_questions].map(|n| n as f64 / seconds), private))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [features, questions, rest @ ..] = &arguments[..] else {
        eprintln!("usage: load FEATURES.h5 QUESTIONS.json [random|grouped|sequential [BATCHES]]");
        std::process::exit(2);
    };
    let sampler = match rest.first().map(String::as_str) {
        None | Some("random") => Sampler::Random,
        Some("grouped") => Sampler::Grouped,
        Some("sequential") => Sampler::Sequential,
        Some(other) => return Err(format!("no sampler \"{other}\"").into()),
    };
    let n_batches: usize = rest.get(1).map_or(Ok(usize::MAX), |n| n.parse())?;

    let file = FeatureFile::open(features)?;
    let mut questions = read_questions(Path::new(questions))?;
    questions.retain(|question| file.row(question.image_id).is_some());
    let words = WordDict::from_questions(questions.iter().map(|question| &*question.question));
    let split =
        Split { source_starts: vec![0, questions.len()], questions, annotations: Annotations::new(), cut_from: None };
    let dataset = Arc::new(Dataset::new(split, &words, &AnswerDict::default(), 14, vec![Arc::new(file)])?);
    let loader = Loader::new(dataset, LoaderOptions { sampler, seed: 1, ..LoaderOptions::default() });

    // In the first epoch the file's pages are mapped into memory, and the loader allocates its buffers.
    let (first, _) = epoch(&loader, 0, n_batches)?;
    let (rates, private) = epoch(&loader, 1, n_batches)?;

    // As many bytes as a batch of 512 random questions.
    let source = vec![1f32; 512 * 36 * 2048];
    let mut target = vec![0f32; source.len()];
    let size = source.len() * 4;
    let one = best_rate(size, || black_box(&mut target[..]).copy_from_slice(black_box(&source)));
    let all = best_rate(size, || {
        let pairs = black_box(&mut target[..]).par_chunks_mut(1 << 18).zip(black_box(&source).par_chunks(1 << 18));
        pairs.for_each(|(target, source)| target.copy_from_slice(source));
    });
    println!(
        "{{\"first_epoch_gb_s\": {:.2}, \"loader_gb_s\": {:.2}, \
         \"questions_per_s\": {:.0}, \"private_mb\": {private:.0}, \
         \"memcpy_gb_s\": {one:.2}, \"memcpy_all_cores_gb_s\": {all:.2}}}",
        first[0] / 1e9,
        rates[0] / 1e9,
        rates[1],
    );
    Ok(())
}
