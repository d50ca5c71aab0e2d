//! Writes files of VQA2.0's size and format, filled with made-up words and numbers: questions and annotations, with
//! 443,757 questions about 82,783 images for training and 214,354 about 40,504 for validation, ten answers each, 600 MB
//! in four files; results for the latter; features of 36 x 2048 for the first training images, as HDF5 and as TSV; and
//! a config.
//!
//!     cargo run --release -p vqa-benches --example generate -- DIR [IMAGES [IMAGES_IN_TSV]]
//!
//! Features of all 82,783 images are 24 GB.
//!
//! Modelled on VQA2.0: the format of the files; the numbers of questions, images and answers; the 65 question types,
//! with which questions begin, each about as frequent as in VQA2.0; the lengths of questions (6.2 words on average,
//! half have six or fewer, one in forty more than eleven); that a third of a split's questions are asked more than
//! once, a few of them hundreds of times; and the 18,000 words. Not modelled: the words themselves, their order, and
//! which answer goes with which question. Words and answers are as frequent as in natural language, independently of
//! the question. Of ten annotators, seven agree. Images have a uniform 5.4 (training) or 5.3 (validation) questions
//! each.

mod json_files;
mod questions;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use vqa_data::features::{FeatureTable, FeatureWriter, ImageEntry};
use vqa_data::files::IfExists;

use json_files::{image_id, write_split};

/// Name, number of questions, number of images, first image id.
const SPLITS: [(&str, usize, usize, u64); 2] = [("train", 443_757, 82_783, 9), ("val", 214_354, 40_504, 300_042)];
const K: usize = 36;
const D: usize = 2048;

/// The features and boxes of an image. Half of the features are zero, as after a ReLU.
fn regions(image_id: u64) -> (Vec<f32>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(image_id);
    let features = (0..K * D).map(|_| (rng.random::<f32>() * 4.0 - 2.0).max(0.0));
    let features = features.collect();
    let boxes = (0..K).flat_map(|i| [i as f32, 2.0 * i as f32, 300.0 + i as f32, 200.0 + i as f32]).collect();
    (features, boxes)
}

fn write_features(directory: &Path, n_images: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (_, _, _, first_image) = SPLITS[0];
    let entry = |i| ImageEntry { image_id: image_id(first_image, i), size: Some([640, 480]), n_regions: K };
    let table = FeatureTable { images: (0..n_images).map(entry).collect(), feature_dim: D, ..FeatureTable::default() };
    let writer = FeatureWriter::create(&directory.join("train36.h5"), table, IfExists::Replace)?;
    (0..n_images).into_par_iter().try_for_each(|i| {
        let (features, boxes) = regions(image_id(first_image, i));
        writer.write(i, &features, &boxes)
    })?;
    Ok(writer.finish()?)
}

fn write_tsv(directory: &Path, n_images: usize) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(directory.join("train36.tsv"))?);
    let encode =
        |numbers: Vec<f32>| STANDARD.encode(numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    for i in 0..n_images {
        let id = image_id(SPLITS[0].3, i);
        let (features, boxes) = regions(id);
        writeln!(file, "{id}\t640\t480\t{K}\t{}\t{}", encode(boxes), encode(features))?;
    }
    file.flush()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, counts @ ..] = &arguments[..] else {
        eprintln!("usage: generate DIR [IMAGES [IMAGES_IN_TSV]]");
        std::process::exit(2);
    };
    let counts: Vec<usize> = counts.iter().map(|count| count.parse()).collect::<Result<_, _>>()?;
    let directory = Path::new(directory);
    std::fs::create_dir_all(directory)?;
    let mut config = String::new();
    for split in SPLITS {
        write_split(directory, split)?;
        let name = split.0;
        config.push_str(&format!(
            "[[data.{name}.composition]]\nq_jsons = \
             [\"v2_OpenEnded_mscoco_{name}2014_questions.json\"]\na_jsons = \
             [\"v2_mscoco_{name}2014_annotations.json\"]\n"
        ));
    }
    std::fs::write(directory.join("config.toml"), config)?;
    if let Some(&n_images) = counts.first() {
        write_features(directory, n_images)?;
    }
    if let Some(&n_images) = counts.get(1) {
        write_tsv(directory, n_images)?;
    }
    Ok(())
}
