//! Writing the files of the shapes world.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::files::atomic::{AtomicDir, write_atomic};
use crate::questions::image_paths::ImagePaths;
use crate::questions::json::Question;
use crate::shapes::questions::QuestionAndAnswer;
use crate::shapes::scene::Scene;

/// The directory of the images.
const IMAGES: &str = "images";

/// An annotation in the form of VQA2.0's files.
#[derive(Debug, Serialize)]
struct AnnotationEntry {
    question_type: &'static str,
    multiple_choice_answer: String,
    answers: Vec<AnnotatorAnswer>,
    image_id: u64,
    answer_type: &'static str,
    question_id: u64,
}

#[derive(Debug, Serialize)]
struct AnnotatorAnswer {
    answer: String,
    answer_confidence: &'static str,
    answer_id: u32,
}

/// What [`write_shapes`] generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapesSpec {
    /// Images in the `train` split.
    pub n_train: usize,
    /// Images in the `val` split.
    pub n_val: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// The files of one split of the shapes world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapesSplit {
    /// The questions file.
    pub questions: PathBuf,
    /// The annotations file.
    pub annotations: PathBuf,
    /// The directory of the images.
    pub images: PathBuf,
    /// The template of their paths relative to the directory of the world, as in
    /// [`crate::questions::SourceConfig::images`].
    pub image_template: String,
}

impl ShapesSplit {
    /// The files of split `name` below `directory`.
    pub fn files(directory: &Path, name: &str) -> ShapesSplit {
        ShapesSplit {
            questions: directory.join(format!("v2_OpenEnded_shapes_{name}_questions.json")),
            annotations: directory.join(format!("v2_shapes_{name}_annotations.json")),
            images: directory.join(IMAGES).join(name),
            image_template: format!("{IMAGES}/{name}/shapes_{name}_{{image_id:012}}.jpg"),
        }
    }
}

/// Draws the images and writes the questions and annotations of the splits `train` and `val` below `directory`. The
/// same spec gives the same files. `progress` is called with the number of images just written.
///
/// # Errors
///
/// When `directory` already has `images`, or cannot be written. No images are left behind.
pub fn write_shapes(directory: &Path, spec: ShapesSpec, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let images = AtomicDir::create(&directory.join(IMAGES))?;
    let mut first_id = 1;
    for (name, n) in [("train", spec.n_train), ("val", spec.n_val)] {
        let files = ShapesSplit::files(directory, name);
        let split_images = images.path().join(name);
        let image_paths = ImagePaths::open(&files.image_template)?;
        std::fs::create_dir(&split_images).map_err(Error::io("create the directory", &files.images))?;
        let items = (first_id..first_id + n as u64)
            .into_par_iter()
            .map(|image_id| {
                let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
                rng.set_stream(image_id);
                let scene = Scene::random(&mut rng);
                let path = image_paths.path(image_id)?;
                let path = split_images.join(path.file_name().expect("the template ends in a file name"));
                let mut jpeg = Vec::new();
                JpegEncoder::new_with_quality(&mut jpeg, 92)
                    .encode_image(&scene.draw(&mut rng))
                    .expect("an image of this size can be encoded in memory");
                std::fs::write(&path, jpeg).map_err(Error::io("write", &path))?;
                progress(1);
                Ok(scene.annotated_questions(image_id, &mut rng))
            })
            .collect::<Result<Vec<_>>>()?;
        let (questions, annotations): (Vec<Question>, Vec<AnnotationEntry>) = items.into_iter().flatten().unzip();
        let header = |list: &str, entries: serde_json::Value| {
            json!({
                "info": {"description": "The shapes world of vqa: generated pictures and questions", "version": "1.0"},
                "license": {"name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"},
                "data_type": "shapes",
                "data_subtype": name,
                "task_type": "Open-Ended",
                list: entries,
            })
            .to_string()
        };
        write_atomic(&files.questions, header("questions", json!(questions)).as_bytes())?;
        write_atomic(&files.annotations, header("annotations", json!(annotations)).as_bytes())?;
        first_id += n as u64;
    }
    images.finish()
}

impl Scene {
    fn annotated_questions(&self, image_id: u64, rng: &mut impl Rng) -> Vec<(Question, AnnotationEntry)> {
        let asked = self.questions(rng);
        let annotate = |(i, asked): (usize, QuestionAndAnswer)| {
            let question_id = image_id * 1000 + i as u64;
            let annotation = AnnotationEntry {
                question_type: asked.question_type,
                answer_type: asked.answer_type,
                multiple_choice_answer: asked.answer.clone(),
                answers: annotators(&asked, rng),
                image_id,
                question_id,
            };
            (Question { image_id, question: asked.question.into(), question_id }, annotation)
        };
        asked.into_iter().enumerate().map(annotate).collect()
    }
}

/// Ten answers: on one question in five, one to four annotators err; one number in ten is written as a word.
fn annotators(asked: &QuestionAndAnswer, rng: &mut impl Rng) -> Vec<AnnotatorAnswer> {
    const WORDS: [&str; 6] = ["zero", "one", "two", "three", "four", "five"];
    let n_wrong = if rng.random_bool(0.2) { rng.random_range(1..=4) } else { 0 };
    let mut answers: Vec<AnnotatorAnswer> = (0..10)
        .map(|i| {
            let wrong = i < n_wrong;
            let answer = if wrong { asked.mistakes.choose(rng).unwrap_or(&asked.answer) } else { &asked.answer };
            let in_words = answer.parse::<usize>().ok().and_then(|n| WORDS.get(n)).filter(|_| rng.random_bool(0.1));
            AnnotatorAnswer {
                answer: in_words.map_or_else(|| answer.clone(), |word| (*word).to_owned()),
                answer_confidence: if wrong { "maybe" } else { "yes" },
                answer_id: 0,
            }
        })
        .collect();
    answers.shuffle(rng);
    for (i, answer) in answers.iter_mut().enumerate() {
        answer.answer_id = i as u32 + 1;
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::split::{SourceConfig, Split};

    #[test]
    fn the_same_seed_writes_the_same_files() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spec = ShapesSpec { n_train: 3, n_val: 2, seed: 7 };
        for directory in [&a, &b] {
            write_shapes(directory.path(), spec, &|_| {}).unwrap();
        }
        for file in [
            "v2_shapes_train_annotations.json",
            "v2_OpenEnded_shapes_val_questions.json",
            "images/val/shapes_val_000000000004.jpg",
        ] {
            assert_eq!(std::fs::read(a.path().join(file)).unwrap(), std::fs::read(b.path().join(file)).unwrap());
        }
        let error = write_shapes(a.path(), spec, &|_| {}).unwrap_err().to_string();
        assert!(error.contains("images: already exists"), "{error}");
        // The loader's own checks find nothing wrong.
        let files = ShapesSplit::files(a.path(), "val");
        let source = SourceConfig {
            q_jsons: vec![files.questions],
            a_jsons: vec![files.annotations],
            ..SourceConfig::default()
        };
        let split = Split::load(&vec![source].into()).unwrap();
        assert!(split.annotations.iter().all(|annotation| annotation.answers().len() == 10));
    }
}
