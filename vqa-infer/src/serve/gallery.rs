//! The images of a split.

use std::path::PathBuf;
use std::sync::Arc;

use vqa_data::batches::open_sources;
use vqa_data::features::{ImageRegions, RegionSource};
use vqa_data::message::counted;
use vqa_data::questions::{ImagePaths, IndexMap, Split, SplitConfig};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// The images of a split with their questions, to browse and to ask about. Clients refer to images by id, and paths are
/// derived from these ids alone. If two sources have an image with the same id, the one of the first source is used, and
/// the questions of both, unless their feature files differ.
pub struct Gallery {
    sources: Vec<Source>,
    images: IndexMap<u64, Image>,
    split: Split,
    /// The questions in lower case, for searching.
    folded: Vec<Box<str>>,
}

struct Source {
    regions: Arc<dyn RegionSource>,
    pictures: Option<ImagePaths>,
}

struct Image {
    source: usize,
    row: usize,
    questions: Vec<usize>,
}

/// An image of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found<'a> {
    pub image_id: u64,
    pub questions: Vec<&'a str>,
}

impl Gallery {
    /// Opens the images of a split. `config` describes the split, and `place` says where, for messages. Images without
    /// features are left out, with a warning, and so are questions about other images with the same ids.
    ///
    /// # Errors
    ///
    /// When a feature file is missing, is not of the kind that the model was trained on, or none of the images has
    /// features.
    pub fn open(split: Split, config: &SplitConfig, place: &str, checkpoint: &Checkpoint) -> Result<Gallery> {
        let problem = |problem: String| Error::Split { place: place.to_owned(), problem };
        let opened = open_sources(&config.composition).map_err(|error| problem(error.to_string()))?;
        let mut sources = Vec::new();
        for (source, regions) in config.composition.iter().zip(opened) {
            checkpoint.check_source(&*regions)?;
            let pictures = source.images.as_deref().map(ImagePaths::open).transpose();
            sources.push(Source { regions, pictures: pictures.map_err(|error| problem(error.to_string()))? });
        }
        let mut images: IndexMap<u64, Image> = IndexMap::new();
        let (mut n_without, mut n_of_others) = (0, 0);
        for (i, question) in split.questions.iter().enumerate() {
            let source = split.source_of(i);
            if let Some(image) = images.get_mut(&question.image_id) {
                // Sources with the same file share it.
                if Arc::ptr_eq(&sources[image.source].regions, &sources[source].regions) {
                    image.questions.push(i);
                } else {
                    n_of_others += 1;
                }
            } else if let Some(row) = sources[source].regions.row(question.image_id) {
                images.insert(question.image_id, Image { source, row, questions: vec![i] });
            } else {
                n_without += 1;
            }
        }
        if images.is_empty() {
            return Err(problem("none of its images has features".to_owned()));
        }
        if n_without > 0 {
            tracing::warn!("{place}: left out, as their images have no features: {}", counted(n_without, "question"));
        }
        if n_of_others > 0 {
            tracing::warn!(
                "{place}: left out, as an earlier source has images with the same ids in another feature file: {}",
                counted(n_of_others, "question")
            );
        }
        let folded = split.questions.iter().map(|question| question.question.to_lowercase().into()).collect();
        Ok(Gallery { sources, images, split, folded })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The regions of an image, if the gallery has it.
    pub(super) fn regions(&self, image_id: u64) -> Option<vqa_data::Result<ImageRegions>> {
        let image = self.images.get(&image_id)?;
        Some(self.sources[image.source].regions.regions(image.row))
    }

    /// The path of an image's picture, if the gallery has the image and the split says where its pictures are.
    pub(super) fn picture(&self, image_id: u64) -> Option<PathBuf> {
        let image = self.images.get(&image_id)?;
        self.sources[image.source].pictures.as_ref()?.path(image_id).ok()
    }

    /// Whether all sources say where their pictures are.
    pub(super) fn has_pictures(&self) -> bool {
        self.sources.iter().all(|source| source.pictures.is_some())
    }

    /// Searches for images whose id begins with `text` or that have a question containing it. Returns how many match,
    /// and up to `limit` of them from `offset` on.
    pub(super) fn search(&self, text: &str, offset: usize, limit: usize) -> (usize, Vec<Found<'_>>) {
        let text = text.trim().to_lowercase();
        let is_id = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = |image_id: u64, image: &Image| {
            text.is_empty()
                || is_id && image_id.to_string().starts_with(&text)
                || image.questions.iter().any(|&question| self.folded[question].contains(&text))
        };
        let (mut n, mut found) = (0, Vec::new());
        for (&image_id, image) in self.images.iter().filter(|&(&image_id, image)| fits(image_id, image)) {
            if n >= offset && found.len() < limit {
                let questions = image.questions.iter().map(|&i| &*self.split.questions[i].question).collect();
                found.push(Found { image_id, questions });
            }
            n += 1;
        }
        (n, found)
    }

    /// The `n` most frequent questions, most frequent first.
    pub(super) fn frequent_questions(&self, n: usize) -> Vec<&str> {
        let mut counts: IndexMap<&str, usize> = IndexMap::new();
        for question in &self.split.questions {
            *counts.entry(&question.question).or_default() += 1;
        }
        let mut counted: Vec<(&str, usize)> = counts.into_iter().collect();
        // The sort is stable: ties keep the order of the files.
        counted.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counted.into_iter().take(n).map(|(question, _)| question).collect()
    }
}
