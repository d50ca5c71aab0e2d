//! Iterates over the batches of a feature file and a questions file, and prints the throughput.
//!
//!     cargo run --release -p vqa-data --example batches -- train36.hdf5 questions.json [annotations.json]

use std::{sync::Arc, time::Instant};
use vqa_data::batches::{Dataset, Loader, LoaderOptions};
use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};

fn main() -> vqa_data::Result<()> {
    let paths: Vec<std::path::PathBuf> = std::env::args_os().skip(1).map(Into::into).collect();
    let [features, questions, annotations @ ..] = &paths[..] else {
        eprintln!("usage: batches FEATURES.h5 QUESTIONS.json [ANNOTATIONS.json]");
        std::process::exit(2);
    };
    let (q_jsons, a_jsons) = (vec![questions.clone()], annotations.to_vec());
    let config =
        SplitConfig::from(vec![SourceConfig { q_jsons, a_jsons, features: Some(features.clone()), images: None }]);
    let split = Split::load(&config)?;
    let (words, answers) = build_dictionaries([&split], &DictConfig::default());
    let dataset = Arc::new(Dataset::open(split, &config, &words, &answers, 14)?);
    let (started, mut bytes) = (Instant::now(), 0);
    for batch in Loader::new(dataset, LoaderOptions::default()).epoch(0, 0) {
        let batch = batch?;
        bytes += batch.features.len() * 4;
        println!("{} questions, {} images of at most {} regions", batch.len(), batch.n_images(), batch.max_regions);
    }
    println!("{:.2} GB/s", bytes as f64 / started.elapsed().as_secs_f64() / 1e9);
    Ok(())
}
