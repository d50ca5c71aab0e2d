//! Writes made-up questions, annotations and results in VQA2.0's format.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::questions::{question, word, zipf};

const N_ANSWERS: usize = 90_000;

/// The n-th most frequent answer.
pub fn answer(n: usize) -> String {
    match n {
        0 => "yes".to_owned(),
        1 => "no".to_owned(),
        2..=11 => (n - 2).to_string(),
        _ if n.is_multiple_of(3) => format!("{} {}", word(n % 977), word(n)),
        _ => word(n),
    }
}

/// Writes questions, annotations and results of a split, given its name, its numbers of questions and images, and the
/// id of its first image.
pub fn write_split(
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
pub fn image_id(first_image: u64, image: usize) -> u64 {
    first_image + 3 * image as u64
}
