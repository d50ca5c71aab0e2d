//! Reading VQA2.0's JSON files, dictionaries, encoding and scoring.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vqa_data::{
    Accuracy, DictConfig, EncodedQuestions, ShapesSpec, ShapesSplit, SourceConfig, Split, SplitConfig, blind_guesses,
    build_dictionaries, write_shapes,
};

fn preparation(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    write_shapes(directory.path(), ShapesSpec { n_train: 2000, n_val: 1, seed: 1 }, &|_| {}).unwrap();
    let files = ShapesSplit::files(directory.path(), "train");
    let bytes = [&files.questions, &files.annotations].map(|path| std::fs::metadata(path).unwrap().len());
    let source =
        SourceConfig { q_jsons: vec![files.questions], a_jsons: vec![files.annotations], ..SourceConfig::default() };
    let config = SplitConfig::from(vec![source]);
    let split = Split::load(&config).unwrap();
    let (words, answers) = build_dictionaries([&split], &DictConfig::default());
    let guesses = blind_guesses(&split.annotations, &split.annotations);

    let mut group = c.benchmark_group("preparation");
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
