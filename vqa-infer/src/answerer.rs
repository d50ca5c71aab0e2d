//! Answers questions about one picture.

use std::path::Path;

use image::RgbImage;
use tch::{Device, Tensor};
use vqa_data::features::{Extractor, ImageRegions};
use vqa_data::questions::tokenize;
use vqa_model::ModelInput;
use vqa_model::backbone::extractor_of;
use vqa_model::memory::or_out_of_memory;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::predict::{Prediction, predictions};

/// A trained model with the extractor that its training features came from: all it takes to ask about a picture of your
/// own.
///
/// ```no_run
/// use vqa_infer::Answerer;
///
/// let answerer = Answerer::open("runs/rooms".as_ref(), None, None)?;
/// let picture = vqa_data::features::read_image("kitchen.jpg".as_ref())?;
/// for (answer, score) in answerer.ask(&picture, "what is on the table?", 5)?.answers {
///     println!("{score:.3} {answer}");
/// }
/// # Ok::<(), vqa_infer::Error>(())
/// ```
pub struct Answerer {
    checkpoint: Checkpoint,
    extractor: Box<dyn Extractor>,
}

/// A model's answers to one question, and where it looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The best answers with their probabilities, best first.
    pub answers: Vec<(String, f32)>,
    /// The weight of each region, adding up to 1.
    pub attention: Vec<f32>,
    /// The words of the question that the model does not know and treats as padding: each once, spelt as the dictionary
    /// would spell it.
    pub unknown_words: Vec<String>,
}

impl Answerer {
    /// Loads a checkpoint, or the best one in a run's directory, and the extractor that its header describes. Without a
    /// `device` it uses the one that the run's config names. Without a `weights` file the weights of the extractor's
    /// network are looked for where they are installed.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::open`]; when the header does not say how the regions were extracted; and when the
    /// network's weights are missing or are not the ones that were used.
    pub fn open(checkpoint: &Path, weights: Option<&Path>, device: Option<Device>) -> Result<Answerer> {
        Answerer::of(Checkpoint::open(checkpoint, device)?, weights)
    }

    /// Like [`Answerer::open`], with a checkpoint that is already loaded, perhaps of a model of your own.
    ///
    /// # Errors
    ///
    /// Those of [`Answerer::open`] that concern the extractor.
    pub fn of(checkpoint: Checkpoint, weights: Option<&Path>) -> Result<Answerer> {
        let Some(info) = &checkpoint.header().extractor else {
            return Err(Error::Mismatch {
                path: checkpoint.path().to_owned(),
                problem: "its training features do not record how they were extracted, so a picture cannot be given \
                    the same kind: ask about an image in a feature file instead (--features FILE --image-id N)"
                    .to_owned(),
            });
        };
        let extractor = extractor_of(info, weights, checkpoint.device())?;
        Ok(Answerer { checkpoint, extractor })
    }

    /// The model.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Splits this into the model and the extractor.
    pub fn into_parts(self) -> (Checkpoint, Box<dyn Extractor>) {
        (self.checkpoint, self.extractor)
    }

    /// Extracts the regions of an upright picture, for asking more than one question about it. Most of the time is
    /// spent here.
    ///
    /// # Errors
    ///
    /// When the picture is too small, or memory is full.
    pub fn regions(&self, picture: &RgbImage) -> Result<ImageRegions> {
        Ok(or_out_of_memory(|| self.extractor.regions(picture))??)
    }

    /// Asks a question about an upright picture, and returns the best `n_best` answers, or all if there are fewer.
    ///
    /// # Errors
    ///
    /// Those of [`Answerer::regions`].
    pub fn ask(&self, picture: &RgbImage, question: &str, n_best: usize) -> Result<Reply> {
        Ok(self.ask_many(picture, &[question], n_best)?.remove(0))
    }

    /// Asks several questions about an upright picture; the replies are in the order of the questions.
    ///
    /// # Errors
    ///
    /// Those of [`Answerer::regions`].
    pub fn ask_many(&self, picture: &RgbImage, questions: &[&str], n_best: usize) -> Result<Vec<Reply>> {
        self.checkpoint.ask(&self.regions(picture)?, questions, n_best)
    }
}

impl Checkpoint {
    /// Asks questions about the regions of one image, and returns the best `n_best` answers to each, or all if there
    /// are fewer; the replies are in the order of the questions.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::ask_about`].
    pub fn ask(&self, regions: &ImageRegions, questions: &[&str], n_best: usize) -> Result<Vec<Reply>> {
        let questions: Vec<(usize, &str)> = questions.iter().map(|&question| (0, question)).collect();
        self.ask_about(&[regions], &questions, n_best)
    }

    /// Asks questions about the regions of several images in one batch; each question comes with the index of its
    /// image. Returns the best `n_best` answers to each, or all if there are fewer; the replies are in the order of the
    /// questions.
    ///
    /// # Errors
    ///
    /// When an image has no regions, its features differ in length from those that the model was trained on, or memory
    /// is full.
    pub fn ask_about(
        &self,
        images: &[&ImageRegions],
        questions: &[(usize, &str)],
        n_best: usize,
    ) -> Result<Vec<Reply>> {
        self.ask_encoded(images, None, questions, n_best)
    }

    /// [`Checkpoint::ask_about`], given the results of [`Checkpoint::encode`] for the images, if there are any.
    pub(crate) fn ask_encoded(
        &self,
        images: &[&ImageRegions],
        encoded: Option<&[&Tensor]>,
        questions: &[(usize, &str)],
        n_best: usize,
    ) -> Result<Vec<Reply>> {
        let n_regions = self.n_regions(images)?;
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let max_len = self.max_question_len();
        let mut tokens = vec![0; questions.len() * max_len];
        for (tokens, (_, question)) in tokens.chunks_mut(max_len).zip(questions) {
            self.words().encode(question, tokens);
        }
        let max_regions = n_regions.iter().copied().max().unwrap_or(0);
        let rows: Vec<i64> = questions.iter().map(|&(image, _)| image as i64).collect();
        let predictions = or_out_of_memory(|| {
            let device = self.device();
            self.set_arithmetic();
            let boxes = padded(images, max_regions, 4, |image| &image.boxes);
            let input = ModelInput {
                tokens: Tensor::from_slice(&tokens).view([rows.len() as i64, max_len as i64]).to_device(device),
                features: self.features(images, max_regions),
                boxes: boxes.to_device(device),
                image_rows: Tensor::from_slice(&rows).to_device(device),
                padding: ModelInput::padding_of(&n_regions, max_regions, device),
                dropout: None,
                order: None,
            };
            let output = match encoded {
                Some(encoded) => self.model().infer_encoded(&input, &stacked(encoded, max_regions as i64)),
                None => self.model().infer(&input),
            };
            predictions(&output, self.loss(), |question| n_regions[questions[question].0], n_best)
        })?;
        let text = |&(answer, score): &(i64, f32)| (self.answers().answers()[answer as usize].clone(), score);
        let reply = |(&(_, question), prediction): (&(usize, &str), Prediction)| Reply {
            answers: prediction.best.iter().map(text).collect(),
            attention: prediction.attention,
            unknown_words: self.unknown_words(question),
        };
        Ok(questions.iter().zip(predictions).map(reply).collect())
    }

    /// The part of the model's computation that depends on each image alone, [K, E], whatever the question; `None` if
    /// the model has no such part.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::ask_about`].
    #[cfg(feature = "serve")]
    pub(crate) fn encode(&self, images: &[&ImageRegions]) -> Result<Option<Vec<Tensor>>> {
        let n_regions = self.n_regions(images)?;
        let max_regions = n_regions.iter().copied().max().unwrap_or(0);
        let encoded = or_out_of_memory(|| {
            self.set_arithmetic();
            self.model().encode_images(&self.features(images, max_regions))
        })?;
        // Copied, so that one image's tensor does not keep the whole batch in memory.
        let of_image = |encoded: &Tensor, (i, &k): (usize, &usize)| encoded.get(i as i64).narrow(0, 0, k as i64).copy();
        Ok(encoded.map(|encoded| n_regions.iter().enumerate().map(|image| of_image(&encoded, image)).collect()))
    }

    /// How many regions each image has.
    ///
    /// # Errors
    ///
    /// When an image has none, or its features differ in length from those that the model was trained on.
    fn n_regions(&self, images: &[&ImageRegions]) -> Result<Vec<usize>> {
        let dim = self.header().dims.feature_dim as usize;
        let n_regions = |image: &&ImageRegions| {
            let (k, n) = (image.boxes.len() / 4, image.features.len());
            if k == 0 || n != k * dim {
                let problem =
                    format!("it was trained on {dim} values per region, but the image has {n} values for {k} regions");
                return Err(Error::Mismatch { path: self.path().to_owned(), problem });
            }
            Ok(k)
        };
        images.iter().map(n_regions).collect()
    }

    /// The features of the images, [N, K, D], on the model's device and in its number type.
    fn features(&self, images: &[&ImageRegions], max_regions: usize) -> Tensor {
        let dim = self.header().dims.feature_dim as usize;
        padded(images, max_regions, dim, |image| &image.features).to_device(self.device()).to_kind(self.kind())
    }

    /// The words of a question that are read but not in the dictionary, each once.
    fn unknown_words(&self, question: &str) -> Vec<String> {
        let mut unknown: Vec<String> = Vec::new();
        for word in tokenize(question, &mut String::new()).take(self.max_question_len()) {
            if self.words().id(word).is_none() && !unknown.iter().any(|known| known == word) {
                unknown.push(word.to_owned());
            }
        }
        unknown
    }
}

/// Gathers `size` values of each region of the images as [N, K, size], padded with zeros where an image has fewer
/// regions.
fn padded(images: &[&ImageRegions], max_regions: usize, size: usize, of: fn(&ImageRegions) -> &[f32]) -> Tensor {
    let mut values = vec![0.0; images.len() * max_regions * size];
    for (row, image) in values.chunks_mut(max_regions * size).zip(images) {
        row[..of(image).len()].copy_from_slice(of(image));
    }
    Tensor::from_slice(&values).view([images.len() as i64, max_regions as i64, size as i64])
}

/// Stacks tensors [K, E] into one, [N, K, E], padded with zeros where one has fewer rows.
fn stacked(encoded: &[&Tensor], max_regions: i64) -> Tensor {
    let padded = |encoded: &&Tensor| match max_regions - encoded.size()[0] {
        0 => encoded.shallow_clone(),
        missing => encoded.constant_pad_nd([0, 0, 0, missing]),
    };
    Tensor::stack(&encoded.iter().map(padded).collect::<Vec<_>>(), 0)
}
