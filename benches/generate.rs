//! Writes files of VQA2.0's size and form, of made-up words and numbers: questions and annotations, 443,757 questions about
//! 82,783 images to train on, 214,354 about 40,504 to validate, ten answers each, 600 MB in four files; results for the
//! latter; features of 36 x 2048 for the first images to train on, as HDF5 and as TSV; and a config.
//!
//!     cargo run --release -p vqa-benches --example generate -- DIR [IMAGES [IMAGES_IN_TSV]]
//!
//! Features of all 82,783 images are 24 GB.
//!
//! Modelled on VQA2.0: the form of the files; how many questions, images and answers there are; the 65 types of questions, with which
//! they begin, each about as frequent as there; their lengths (6.2 words on average, half have six or fewer, one in forty more than
//! eleven); that a third of a split's questions are asked more than once, a few of them hundreds of times; and 18,000 words.
//! Not modelled: the words themselves, which of them follow each other, and what is answered to what. A frequent word is drawn as often as in
//! a language, and so is a frequent answer, whatever the question. Of ten annotators seven agree. Images have 5.4 questions each, or 5.3, not more or fewer.

mod questions;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use vqa_data::{FeatureTable, FeatureWriter, ImageEntry};

use questions::{question, word, zipf};

/// Name, questions, images, first image id.
const SPLITS: [(&str, usize, usize, u64); 2] = [("train", 443_757, 82_783, 9), ("val", 214_354, 40_504, 300_042)];
const K: usize = 36;
const D: usize = 2048;
const N_ANSWERS: usize = 90_000;

fn answer(n: usize) -> String {
    match n {
        0 => "yes".to_owned(),
        1 => "no".to_owned(),
        2..=11 => (n - 2).to_string(),
        _ if n.is_multiple_of(3) => format!("{} {}", word(n % 977), word(n)),
        _ => word(n),
    }
}

fn write_split(
    directory: &Path,
    (name, n_questions, n_images, first_image): (&str, usize, usize, u64),
) -> std::io::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(first_image);
    let open = |file: String| File::create(directory.join(file)).map(|file| BufWriter::with_capacity(1 << 20, file));
    let mut questions = open(format!("v2_OpenEnded_mscoco_{name}2014_questions.json"))?;
    let mut annotations = open(format!("v2_mscoco_{name}2014_annotations.json"))?;
    let mut results = open(format!("results_{name}.json"))?;
    let info =
        "\"info\": {\"description\": \"Made up, of VQA2.0's size.\", \"version\": \"2.0\"}, \"data_type\": \"mscoco\"";
    write!(questions, "{{{info}, \"task_type\": \"Open-Ended\", \"questions\": [")?;
    write!(annotations, "{{{info}, \"annotations\": [")?;
    write!(results, "[")?;
    for i in 0..n_questions {
        let image = i * n_images / n_questions;
        let image_id = image_id(first_image, image);
        let nth = i - (image * n_questions).div_ceil(n_images);
        let question_id = image_id * 1000 + nth as u64;
        let (question_type, text) = question(&mut rng);
        let comma = if i == 0 { "" } else { ", " };
        write!(
            questions,
            "{comma}{{\"image_id\": {image_id}, \"question\": \"{text}\", \"question_id\": {question_id}}}"
        )?;
        let most = zipf(&mut rng, N_ANSWERS);
        let answered = if rng.random_bool(0.6) { most } else { zipf(&mut rng, N_ANSWERS) };
        write!(results, "{comma}{{\"question_id\": {question_id}, \"answer\": \"{}\"}}", answer(answered))?;
        let answer_type = match most {
            0 | 1 => "yes/no",
            2..=11 => "number",
            _ => "other",
        };
        write!(
            annotations,
            "{comma}{{\"question_type\": \"{question_type}\", \"multiple_choice_answer\": \"{}\", \"answers\": [",
            answer(most)
        )?;
        for annotator in 1..=10 {
            let given = if rng.random_bool(0.7) { most } else { zipf(&mut rng, N_ANSWERS) };
            let comma = if annotator == 1 { "" } else { ", " };
            write!(
                annotations,
                "{comma}{{\"answer\": \"{}\", \"answer_confidence\": \"{}\", \"answer_id\": {annotator}}}",
                answer(given),
                if rng.random_bool(0.8) { "yes" } else { "maybe" }
            )?;
        }
        write!(
            annotations,
            "], \"image_id\": {image_id}, \"answer_type\": \"{answer_type}\", \"question_id\": {question_id}}}"
        )?;
    }
    write!(questions, "]}}")?;
    write!(annotations, "]}}")?;
    write!(results, "]")?;
    results.flush()?;
    questions.flush()?;
    annotations.flush()
}

/// The id of an image of a split.
fn image_id(first_image: u64, image: usize) -> u64 {
    first_image + 3 * image as u64
}

/// The features and boxes of an image: half of the features are zero, as behind a ReLU.
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
    let writer = FeatureWriter::create(&directory.join("train36.h5"), table)?;
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
            "[[data.{name}.composition]]\nq_jsons = [\"v2_OpenEnded_mscoco_{name}2014_questions.json\"]\na_jsons = [\"v2_mscoco_{name}2014_annotations.json\"]\n"
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
