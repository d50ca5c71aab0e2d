//! Measures converting TSV to HDF5: finding the lines alone, the full conversion until the file is on the disk, and, as
//! the limit, a plain write of as many bytes.

mod sizes;

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vqa_data::features::{Check, Collection, ElementType, Output};
use vqa_data::files::IfExists;

use sizes::measured_or_tested;

const K: usize = 36;
const D: usize = 2048;

fn write_tsv(path: &Path, n_images: usize) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for i in 0..n_images {
        let features: Vec<u8> = (0..K * D).flat_map(|j| (((i * 7 + j) % 97) as f32 / 32.0).to_le_bytes()).collect();
        writeln!(file, "{i}\t640\t480\t{K}\t{}\t{}", STANDARD.encode([0; K * 16]), STANDARD.encode(features))?;
    }
    Ok(())
}

fn conversion(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let (tsv, out) = (directory.path().join("in.tsv"), directory.path().join("out.h5"));
    let n_images = measured_or_tested(256, 8);
    write_tsv(&tsv, n_images).unwrap();
    let open = |check| Collection::open(std::slice::from_ref(&tsv), check, &|_| {}).unwrap();
    let collection = open(Check::Index);
    let outputs = [Output { path: out.clone(), image_ids: None, if_exists: IfExists::Replace }];

    let mut group = c.benchmark_group("conversion");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(std::fs::metadata(&tsv).unwrap().len()));
    group.bench_function("index TSV", |b| b.iter(|| open(Check::Index)));
    group.bench_function("check TSV", |b| b.iter(|| open(Check::Everything)));
    for (name, element_type) in [("TSV to f32", ElementType::F32), ("TSV to f16", ElementType::F16)] {
        let convert = || collection.convert(black_box(&outputs), element_type, None, &|_| {}).unwrap();
        group.bench_function(name, |b| b.iter(convert));
    }
    let bytes = vec![1u8; n_images * K * (D + 4) * 4];
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("plain write of the f32", |b| {
        b.iter(|| {
            let mut file = File::create(&out).unwrap();
            file.write_all(&bytes).and_then(|()| file.sync_all()).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, conversion);
criterion_main!(benches);
