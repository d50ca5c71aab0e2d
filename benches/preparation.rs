//! Measures reading VQA2.0's JSON files, building dictionaries, encoding and scoring, on made-up files a tenth as large
//! as its training split.

mod json_files;
mod questions;
mod sizes;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vqa_data::evaluator::{Accuracy, blind_guesses};
use vqa_data::questions::{DictConfig, EncodedQuestions, SourceConfig, Split, SplitConfig, build_dictionaries};

use sizes::measured_or_tested;

fn preparation(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let (n_questions, n_images) = (measured_or_tested(44_000, 1_000), measured_or_tested(8_200, 200));
    json_files::write_split(directory.path(), ("train", n_questions, n_images, 1)).unwrap();
    let at = |name: &str| directory.path().join(name);
    let files = [at("v2_OpenEnded_mscoco_train2014_questions.json"), at("v2_mscoco_train2014_annotations.json")];
    let bytes = files.each_ref().map(|path| std::fs::metadata(path).unwrap().len());
    let [questions, annotations] = files.map(|path| vec![path]);
    let source = SourceConfig { q_jsons: questions, a_jsons: annotations, ..SourceConfig::default() };
    let config = SplitConfig::from(vec![source]);
    let split = Split::load(&config).unwrap();
    let (words, answers) = build_dictionaries([&split], &DictConfig::default());
    let guesses = blind_guesses(&split.annotations, &split.annotations);

    let mut group = c.benchmark_group("preparation");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(bytes.iter().sum()));
    group.bench_function("read and join JSON", |b| b.iter(|| Split::load(black_box(&config)).unwrap()));
    group.throughput(Throughput::Elements(split.len() as u64));
    group.bench_function("dictionaries", |b| b.iter(|| build_dictionaries([&split], &DictConfig::default())));
    group.bench_function("encode", |b| b.iter(|| EncodedQuestions::new(&split, &words, &answers, 14)));
    group.bench_function("official accuracy", |b| b.iter(|| Accuracy::of(&guesses, &split.annotations).unwrap()));
    group.finish();
}

criterion_group!(benches, preparation);
criterion_main!(benches);
