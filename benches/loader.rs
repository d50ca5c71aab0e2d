//! Measures loading batches of 36 x 2048 regions with the file in the page cache and, as the limit, a plain copy of as
//! many bytes.

mod sizes;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::{ElementType, FeatureFile, FeatureTable, FeatureWriter, ImageEntry};
use vqa_data::files::IfExists;
use vqa_data::questions::{Annotations, AnswerDict, Question, Split, WordDict};

use sizes::measured_or_tested;

const QUESTIONS_PER_IMAGE: usize = 5;
const K: usize = 36;
const D: usize = 2048;

fn write_features(path: &Path, n_images: usize, element_type: ElementType) {
    let entry = |i| ImageEntry { image_id: i as u64, size: Some([640, 480]), n_regions: K };
    let images = (0..n_images).map(entry).collect();
    let table = FeatureTable { images, feature_dim: D, element_type, ..FeatureTable::default() };
    let writer = FeatureWriter::create(path, table, IfExists::Refuse).unwrap();
    for i in 0..n_images {
        let features: Vec<f32> = (0..K * D).map(|j| ((i * 7 + j) % 97) as f32 / 32.0).collect();
        writer.write(i, &features, &[1.0; K * 4]).unwrap();
    }
    writer.finish().unwrap();
}

fn dataset(path: &Path, n_images: usize) -> Arc<Dataset> {
    let questions: Vec<Question> = (0..n_images * QUESTIONS_PER_IMAGE)
        .map(|i| Question {
            question_id: i as u64,
            image_id: (i / QUESTIONS_PER_IMAGE) as u64,
            question: "what color is the cat".into(),
        })
        .collect();
    let split =
        Split { source_starts: vec![0, questions.len()], questions, annotations: Annotations::new(), cut_from: None };
    let words = WordDict::from_questions(["what color is the cat"]);
    let source = Arc::new(FeatureFile::open(path).unwrap());
    Arc::new(Dataset::new(split, &words, &AnswerDict::default(), 14, vec![source]).unwrap())
}

fn loader(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let n_images = measured_or_tested(1024, 16);
    let mut group = c.benchmark_group("loader");
    group.sample_size(10);
    for (name, element_type) in [("f32", ElementType::F32), ("f16", ElementType::F16)] {
        let path = directory.path().join(format!("{name}.h5"));
        write_features(&path, n_images, element_type);
        let dataset = dataset(&path, n_images);
        for sampler in [Sampler::Random, Sampler::Grouped, Sampler::Sequential] {
            let options = LoaderOptions { sampler, seed: 1, ..LoaderOptions::default() };
            let loader = Loader::new(dataset.clone(), options);
            let bytes: usize = loader.epoch(0, 0).map(|batch| batch.unwrap().features.len() * 4).sum();
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(format!("{name} {sampler:?}").to_lowercase(), |b| {
                b.iter(|| loader.epoch(0, 0).for_each(|batch| drop(black_box(batch.unwrap()))));
            });
        }
    }
    let source = vec![1u8; 256 << 20];
    let mut target = vec![0u8; source.len()];
    group.throughput(Throughput::Bytes(source.len() as u64));
    group.bench_function("memcpy", |b| b.iter(|| black_box(&mut target).copy_from_slice(black_box(&source))));
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
