//! A generated world of coloured shapes with questions in VQA2.0's formats, for learning and trying things.
//!
//! Each picture shows up to seven shapes of five kinds, six colours and two sizes. Its questions are of VQA2.0's
//! three answer types, and balanced, so that a model that does not look gets little: every count from 0 to 4
//! is as frequent as the others, every "is there" has as many yes as no, and colours and kinds are drawn
//! evenly. Ten annotators answer; now and then some of them err.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;

use crate::atomic::{AtomicDir, write_atomic};
use crate::json::Question;
use crate::{Error, Result};

/// The directory of the pictures.
const IMAGES: &str = "images";

/// Width and height of a picture in pixels.
const PICTURE_SIZE: [u32; 2] = [200, 160];

/// Shapes stand near the middles of cells of this side, at most one in each. Neighbours may overlap.
const CELL: u32 = 40;

const COLORS: [(&str, [f32; 3]); 6] = [
    ("red", [0.86, 0.16, 0.18]),
    ("green", [0.20, 0.63, 0.27]),
    ("blue", [0.18, 0.38, 0.86]),
    ("yellow", [0.97, 0.83, 0.15]),
    ("purple", [0.56, 0.24, 0.70]),
    ("black", [0.13, 0.13, 0.16]),
];

const KINDS: [&str; 5] = ["circle", "square", "triangle", "star", "cross"];

/// With the radius in pixels.
const SIZES: [(&str, f32); 2] = [("small", 11.0), ("large", 19.0)];

/// The most frequent count that is asked for.
const MAX_COUNT: usize = 4;

/// An annotation as VQA2.0's files have it.
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

/// Where [`write_shapes`] puts a split, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapesSpec {
    /// Pictures in the `train` split.
    pub n_train: usize,
    /// Pictures in the `val` split.
    pub n_val: usize,
    /// Fixes everything.
    pub seed: u64,
}

/// The files of one split of the shapes world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapesSplit {
    /// The questions file.
    pub questions: PathBuf,
    /// The annotations file.
    pub annotations: PathBuf,
    /// The directory of the pictures.
    pub images: PathBuf,
    /// The template of their paths below the directory of the world, as in [`crate::SourceConfig::images`].
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

/// Draws the pictures and writes the questions and annotations of the splits `train` and `val` below
/// `directory`. The same spec gives the same files. `progress` is called with the number of pictures just
/// done.
///
/// # Errors
///
/// When `directory` has `images` already, or cannot be written. No pictures are left then.
pub fn write_shapes(directory: &Path, spec: ShapesSpec, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let images = AtomicDir::create(&directory.join(IMAGES))?;
    let mut first_id = 1;
    for (name, n) in [("train", spec.n_train), ("val", spec.n_val)] {
        let files = ShapesSplit::files(directory, name);
        let split_images = images.path().join(name);
        std::fs::create_dir(&split_images).map_err(Error::io("create the directory", &files.images))?;
        let items = (first_id..first_id + n as u64)
            .into_par_iter()
            .map(|image_id| {
                let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
                rng.set_stream(image_id);
                let scene = Scene::random(&mut rng);
                let path = crate::image_path(&files.image_template, image_id)?;
                let path = split_images.join(path.file_name().expect("the template ends in a file name"));
                let mut jpeg = Vec::new();
                JpegEncoder::new_with_quality(&mut jpeg, 92)
                    .encode_image(&scene.draw(&mut rng))
                    .expect("a picture of this size can be encoded in memory");
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

/// One shape in a picture. Attributes are indices into the tables above.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    kind: usize,
    color: usize,
    size: usize,
    x: f32,
    y: f32,
    /// Half the extent in pixels.
    radius: f32,
    /// Sine and cosine of the angle that it is turned by.
    turn: (f32, f32),
}

/// What a question says of a shape. `None` leaves an attribute open.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Description {
    size: Option<usize>,
    color: Option<usize>,
    kind: Option<usize>,
}

impl Description {
    fn fits(&self, shape: &Shape) -> bool {
        self.size.is_none_or(|size| size == shape.size)
            && self.color.is_none_or(|color| color == shape.color)
            && self.kind.is_none_or(|kind| kind == shape.kind)
    }

    /// "small red star", "blue shape".
    fn words(&self) -> String {
        let size = self.size.map(|size| SIZES[size].0);
        let color = self.color.map(|color| COLORS[color].0);
        let kind = self.kind.map_or("shape", |kind| KINDS[kind]);
        size.into_iter().chain(color).chain([kind]).collect::<Vec<_>>().join(" ")
    }
}

/// A question with its true answer and what an annotator who errs might say.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    question: String,
    question_type: &'static str,
    answer_type: &'static str,
    answer: String,
    mistakes: Vec<String>,
}

/// A picture's content.
#[derive(Debug, Clone, PartialEq)]
struct Scene {
    shapes: Vec<Shape>,
    /// What the counting question asks for: a colour or a kind that was placed with a count drawn evenly from 0 to 4.
    counted: Description,
}

impl Scene {
    fn random(rng: &mut impl Rng) -> Scene {
        let counted = if rng.random() {
            Description { color: Some(rng.random_range(0..COLORS.len())), ..Description::default() }
        } else {
            Description { kind: Some(rng.random_range(0..KINDS.len())), ..Description::default() }
        };
        let n_counted = rng.random_range(0..=MAX_COUNT);
        let n_others = rng.random_range(if n_counted < 2 { 2..=4 } else { 0..=3 });
        let mut shapes: Vec<Shape> = Vec::new();
        for (i, (x, y)) in places(rng).into_iter().take(n_counted + n_others).enumerate() {
            let wanted = i < n_counted;
            shapes.push(loop {
                let size = rng.random_range(0..SIZES.len());
                let angle: f32 = rng.random_range(-0.25..0.25);
                let shape = Shape {
                    kind: counted.kind.filter(|_| wanted).unwrap_or_else(|| rng.random_range(0..KINDS.len())),
                    color: counted.color.filter(|_| wanted).unwrap_or_else(|| rng.random_range(0..COLORS.len())),
                    size,
                    x,
                    y,
                    radius: SIZES[size].1 * rng.random_range(0.9..1.1),
                    turn: angle.sin_cos(),
                };
                if counted.fits(&shape) == wanted {
                    break shape;
                }
            });
        }
        // Shapes that come later lie on top: do not let that depend on what is asked.
        shapes.shuffle(rng);
        Scene { shapes, counted }
    }

    fn count(&self, description: Description) -> usize {
        self.shapes.iter().filter(|shape| description.fits(shape)).count()
    }

    /// Whether exactly one shape fits.
    fn is_unique(&self, description: Description) -> bool {
        self.count(description) == 1
    }

    /// The questions of a picture, in random order.
    fn questions(&self, rng: &mut impl Rng) -> Vec<Asked> {
        let mut asked = vec![self.ask_count(), self.ask_existence(true, rng), self.ask_existence(false, rng)];
        let mut shapes: Vec<&Shape> = self.shapes.iter().collect();
        shapes.shuffle(rng);
        asked.extend(shapes.iter().filter_map(|shape| self.ask_color(shape, rng)).take(2));
        asked.extend(shapes.iter().filter_map(|shape| self.ask_shape(shape, rng)).take(2));
        asked.extend(self.ask_relation(&shapes, rng));
        asked.shuffle(rng);
        asked
    }

    fn ask_count(&self) -> Asked {
        let n = self.count(self.counted);
        let near = [n.checked_sub(1), Some(n + 1)];
        Asked {
            question: format!("How many {} are there?", plural(&self.counted.words())),
            question_type: "how many",
            answer_type: "number",
            answer: n.to_string(),
            mistakes: near.into_iter().flatten().map(|n| n.to_string()).collect(),
        }
    }

    fn ask_existence(&self, exists: bool, rng: &mut impl Rng) -> Asked {
        // Both answers ask for a colour and a kind, and where possible "no" has both in the picture, apart.
        let description = loop {
            let (a, b) = (self.shapes.choose(rng), self.shapes.choose(rng));
            let (Some(a), Some(b)) = (a, b) else { unreachable!("a scene has shapes") };
            let mixed = Description { color: Some(a.color), kind: Some(b.kind), ..Description::default() };
            let any = Description {
                color: Some(rng.random_range(0..COLORS.len())),
                kind: Some(b.kind),
                ..Description::default()
            };
            let own = Description { color: Some(b.color), ..mixed };
            let candidate = if exists { own } else { *[mixed, any].choose(rng).expect("two") };
            if (self.count(candidate) > 0) == exists {
                break candidate;
            }
        };
        let (answer, mistake) = if exists { ("yes", "no") } else { ("no", "yes") };
        Asked {
            question: format!("Is there a {}?", description.words()),
            question_type: "is there a",
            answer_type: "yes/no",
            answer: answer.to_owned(),
            mistakes: vec![mistake.to_owned()],
        }
    }

    fn ask_color(&self, shape: &Shape, rng: &mut impl Rng) -> Option<Asked> {
        let by_kind = Description { kind: Some(shape.kind), ..Description::default() };
        let by_both = Description { size: Some(shape.size), ..by_kind };
        let description = [by_kind, by_both].into_iter().find(|&d| self.is_unique(d))?;
        let others: Vec<&str> = COLORS.iter().map(|color| color.0).filter(|&c| c != COLORS[shape.color].0).collect();
        Some(Asked {
            question: format!("What color is the {}?", description.words()),
            question_type: "what color is the",
            answer_type: "other",
            answer: COLORS[shape.color].0.to_owned(),
            mistakes: vec![(*others.choose(rng)?).to_owned()],
        })
    }

    fn ask_shape(&self, shape: &Shape, rng: &mut impl Rng) -> Option<Asked> {
        let by_color = Description { color: Some(shape.color), ..Description::default() };
        let by_both = Description { size: Some(shape.size), ..by_color };
        let description = [by_color, by_both].into_iter().find(|&d| self.is_unique(d))?;
        let others: Vec<&str> = KINDS.into_iter().filter(|&kind| kind != KINDS[shape.kind]).collect();
        Some(Asked {
            question: format!("What is the {}?", description.words().replace("shape", "thing")),
            question_type: "what is the",
            answer_type: "other",
            answer: KINDS[shape.kind].to_owned(),
            mistakes: vec![(*others.choose(rng)?).to_owned()],
        })
    }

    fn ask_relation(&self, shuffled: &[&Shape], rng: &mut impl Rng) -> Option<Asked> {
        let named = |shape: &Shape| Description { color: Some(shape.color), kind: Some(shape.kind), size: None };
        let mut unique = shuffled.iter().filter(|shape| self.is_unique(named(shape)));
        let (a, b) = (unique.next()?, unique.next()?);
        let (dx, dy) = (a.x - b.x, a.y - b.y);
        // Ask along the axis on which they are clearly apart.
        let (offset, words) =
            if dx.abs() > dy.abs() { (dx, ["left of", "right of"]) } else { (dy, ["above", "below"]) };
        if offset.abs() < SIZES[0].1 {
            return None;
        }
        let asks_first = rng.random_bool(0.5);
        let (answer, mistake) = if (offset < 0.0) == asks_first { ("yes", "no") } else { ("no", "yes") };
        let word = words[usize::from(!asks_first)];
        Some(Asked {
            question: format!("Is the {} {word} the {}?", named(a).words(), named(b).words()),
            question_type: "is the",
            answer_type: "yes/no",
            answer: answer.to_owned(),
            mistakes: vec![mistake.to_owned()],
        })
    }

    fn annotated_questions(&self, image_id: u64, rng: &mut impl Rng) -> Vec<(Question, AnnotationEntry)> {
        let asked = self.questions(rng);
        let annotate = |(i, asked): (usize, Asked)| {
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

    /// Draws the scene on a light ground, with three by three samples a pixel.
    fn draw(&self, rng: &mut impl Rng) -> RgbImage {
        const SAMPLES: u32 = 3;
        let [width, height] = PICTURE_SIZE;
        let top: [f32; 3] = std::array::from_fn(|_| rng.random_range(0.80..0.97));
        let bottom: [f32; 3] = std::array::from_fn(|_| rng.random_range(0.68..0.90));
        let tints: Vec<[f32; 3]> = self
            .shapes
            .iter()
            .map(|shape| COLORS[shape.color].1.map(|c| (c + rng.random_range(-0.05..0.05)).clamp(0.0, 1.0)))
            .collect();
        let mut picture = RgbImage::new(width, height);
        let mut near: Vec<(&Shape, &[f32; 3])> = Vec::new();
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            let ground: [f32; 3] = std::array::from_fn(|c| top[c] + (bottom[c] - top[c]) * y as f32 / height as f32);
            near.clear();
            near.extend(self.shapes.iter().zip(&tints).filter(|(shape, _)| shape.is_near(x as f32, y as f32)));
            // Where there is nothing but ground, one sample says it all.
            let samples = if near.is_empty() { 1 } else { SAMPLES };
            let mut sum = [0.0f32; 3];
            for sample in 0..samples * samples {
                let offset = |i: u32| (i as f32 + 0.5) / samples as f32;
                let (px, py) = (x as f32 + offset(sample % samples), y as f32 + offset(sample / samples));
                let mut color = ground;
                for &(shape, tint) in &near {
                    // A soft shadow below right, then the shape with a darker rim.
                    if shape.covers(px - 2.5, py - 3.0, 1.0) {
                        color = color.map(|c| c * 0.82);
                    }
                    if shape.covers(px, py, 1.0) {
                        let rim = if shape.covers(px, py, 1.0 - 2.2 / shape.radius) { 1.0 } else { 0.72 };
                        color = tint.map(|c| c * rim);
                    }
                }
                for c in 0..3 {
                    sum[c] += color[c];
                }
            }
            let noise = rng.random_range(-0.012..0.012);
            *pixel =
                Rgb(sum.map(|c| ((c / (samples * samples) as f32 + noise) * 255.0).round().clamp(0.0, 255.0) as u8));
        }
        picture
    }
}

/// The middles of all cells, in random order, each shifted a little.
fn places(rng: &mut impl Rng) -> Vec<(f32, f32)> {
    const JITTER: f32 = 6.0;
    let [columns, rows] = PICTURE_SIZE.map(|length| length / CELL);
    let mut places: Vec<(f32, f32)> = (0..columns * rows)
        .map(|cell| {
            let middle = |i: u32| (i as f32 + 0.5) * CELL as f32;
            let mut shifted = |i: u32| middle(i) + rng.random_range(-JITTER..JITTER);
            (shifted(cell % columns), shifted(cell / columns))
        })
        .collect();
    places.shuffle(rng);
    places
}

impl Shape {
    /// Whether the shape or its shadow may reach the pixel.
    fn is_near(&self, px: f32, py: f32) -> bool {
        let reach = 1.2 * self.radius + 5.0;
        (px - self.x).abs() < reach && (py - self.y).abs() < reach
    }

    /// Whether the shape, scaled about its middle, covers a point of the picture.
    fn covers(&self, px: f32, py: f32, scale: f32) -> bool {
        let (sin, cos) = self.turn;
        let (dx, dy) = ((px - self.x) / (self.radius * scale), (py - self.y) / (self.radius * scale));
        // In the shape's own frame, where it lies within the unit circle or close to it.
        let (x, y) = (dx * cos + dy * sin, dy * cos - dx * sin);
        match KINDS[self.kind] {
            "circle" => x * x + y * y < 0.9,
            "square" => x.abs().max(y.abs()) < 0.82,
            "triangle" => y < 0.75 && y > 1.9 * x.abs() - 1.0,
            "star" => {
                // Five points: the distance to the edge falls and rises five times around.
                let angle = x.atan2(-y).rem_euclid(std::f32::consts::TAU / 5.0) - std::f32::consts::PI / 5.0;
                let (outer, inner) = (1.08f32, 0.46f32);
                let step = std::f32::consts::PI / 5.0;
                // The edge runs straight from an inner corner (angle 0) to an outer one (angle ±step).
                let edge =
                    outer * inner * step.sin() / (outer * (step - angle.abs()).sin() + inner * angle.abs().sin());
                x.hypot(y) < edge
            }
            _ => (x.abs() < 0.32 && y.abs() < 0.98) || (y.abs() < 0.32 && x.abs() < 0.98),
        }
    }
}

fn plural(words: &str) -> String {
    if words.ends_with("cross") { format!("{words}es") } else { format!("{words}s") }
}

/// Ten answers: on one question in five, one to four annotators err; one number in ten is written as a word.
fn annotators(asked: &Asked, rng: &mut impl Rng) -> Vec<AnnotatorAnswer> {
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
    use std::collections::HashMap;

    fn scene(seed: u64) -> (Scene, ChaCha8Rng) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (Scene::random(&mut rng), rng)
    }

    /// Which answers each question type has, how often.
    fn answers_by_type(n: u64) -> HashMap<&'static str, HashMap<String, usize>> {
        let mut counts: HashMap<_, HashMap<_, usize>> = HashMap::new();
        for seed in 0..n {
            let (scene, mut rng) = scene(seed);
            for asked in scene.questions(&mut rng) {
                *counts.entry(asked.question_type).or_default().entry(asked.answer).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn no_answer_dominates_its_question_type() {
        let counts = answers_by_type(3000);
        let n_answers =
            [("is there a", 2), ("is the", 2), ("how many", 5), ("what color is the", 6), ("what is the", 5)];
        assert_eq!(counts.len(), n_answers.len());
        for (question_type, n) in n_answers {
            let answers = &counts[question_type];
            assert_eq!(answers.len(), n, "{question_type}");
            let total: usize = answers.values().sum();
            let most = answers.values().max().unwrap();
            assert!((*most as f64) < 1.12 * total as f64 / n as f64, "{question_type}: {answers:?}");
        }
    }

    /// The shape on top has its own colour in the drawing, at its middle.
    #[test]
    fn shapes_are_drawn_in_their_colours() {
        for seed in 0..200 {
            let (scene, mut rng) = scene(seed);
            let picture = scene.draw(&mut rng);
            let top = scene.shapes.last().unwrap();
            let tint = COLORS[top.color].1.map(|c| c * 255.0);
            let pixel = picture.get_pixel(top.x as u32, top.y as u32);
            let off = (0..3).map(|c| (f32::from(pixel.0[c]) - tint[c]).abs()).fold(0.0, f32::max);
            assert!(off < 20.0, "{top:?} {pixel:?}");
        }
    }

    /// The shapes that a phrase like "small red star" or "blue things" fits, found by its words.
    fn fitting<'a>(scene: &'a Scene, phrase: &str) -> Vec<&'a Shape> {
        let fits = |shape: &&Shape| {
            phrase.split(' ').all(|word| {
                let singular = word.strip_suffix("es").filter(|w| *w == "cross").or(word.strip_suffix('s'));
                let is = |name: &str| word == name || singular == Some(name);
                ["thing", "shape"].iter().any(|open| is(open))
                    || [SIZES[shape.size].0, COLORS[shape.color].0, KINDS[shape.kind]].iter().any(|name| is(name))
            })
        };
        scene.shapes.iter().filter(fits).collect()
    }

    /// Each answer is worked out anew, from the words of the question and the shapes alone.
    #[test]
    fn answers_are_true() {
        let mut n_checked = 0;
        for seed in 0..500 {
            let (scene, mut rng) = scene(seed);
            for Asked { question, answer, .. } in scene.questions(&mut rng) {
                let text = question.trim_end_matches('?');
                let one = |phrase: &str| {
                    let fitting = fitting(&scene, phrase);
                    assert_eq!(fitting.len(), 1, "{question} is about one shape");
                    fitting[0]
                };
                let truth = if let Some(phrase) = text.strip_prefix("How many ") {
                    fitting(&scene, phrase.strip_suffix(" are there").unwrap()).len().to_string()
                } else if let Some(phrase) = text.strip_prefix("Is there a ") {
                    if fitting(&scene, phrase).is_empty() { "no".to_owned() } else { "yes".to_owned() }
                } else if let Some(phrase) = text.strip_prefix("What color is the ") {
                    COLORS[one(phrase).color].0.to_owned()
                } else if let Some(phrase) = text.strip_prefix("What is the ") {
                    KINDS[one(phrase).kind].to_owned()
                } else {
                    let text = text.strip_prefix("Is the ").unwrap();
                    let word = [" left of the ", " right of the ", " above the ", " below the "]
                        .into_iter()
                        .find(|w| text.contains(w));
                    let (a, b) = text.split_once(word.unwrap()).unwrap();
                    let (a, b) = (one(a), one(b));
                    let holds = match word.unwrap().trim().split(' ').next().unwrap() {
                        "left" => a.x < b.x,
                        "right" => a.x > b.x,
                        "above" => a.y < b.y,
                        _ => a.y > b.y,
                    };
                    if holds { "yes".to_owned() } else { "no".to_owned() }
                };
                assert_eq!(answer, truth, "{question} {:?}", scene.shapes);
                n_checked += 1;
            }
        }
        assert!(n_checked > 3000);
    }

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
        assert!(error.contains("images: is there already"), "{error}");
        // The loader's own checks find nothing wrong.
        let files = ShapesSplit::files(a.path(), "val");
        let source = crate::SourceConfig {
            q_jsons: vec![files.questions],
            a_jsons: vec![files.annotations],
            ..crate::SourceConfig::default()
        };
        let split = crate::Split::load(&vec![source].into()).unwrap();
        assert!(split.annotations.iter().all(|annotation| annotation.answers().len() == 10));
    }
}
