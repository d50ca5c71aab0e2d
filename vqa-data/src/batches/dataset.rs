//! A split encoded as ids: tokens, soft targets, and where each question's regions are.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::source::RegionSource;
use crate::message::{counted, first_few};
use crate::questions::dictionary::{AnswerDict, WordDict};
use crate::questions::encode::EncodedQuestions;
use crate::questions::fingerprint::DictFingerprint;
use crate::questions::split::Split;
use crate::questions::tokenize::tokenize;

/// A few words that the dictionary lacks, for a message.
fn first_unknown_words(split: &Split, words: &WordDict) -> Vec<String> {
    const FEW: usize = 5;
    let mut unknown: Vec<String> = Vec::new();
    let mut buffer = String::new();
    for question in &split.questions {
        for word in tokenize(&question.question, &mut buffer) {
            if unknown.len() < FEW && words.id(word).is_none() && !unknown.iter().any(|known| known == word) {
                unknown.push(word.to_owned());
            }
        }
    }
    unknown
}

/// A split, encoded and joined with its region features: everything that batches are gathered from.
pub struct Dataset {
    split: Split,
    encoded: EncodedQuestions,
    sources: Vec<Arc<dyn RegionSource>>,
    /// The distinct images of the questions, by source and row.
    images: Vec<Location>,
    /// For each question, the index of its image in `images`.
    image_of: Vec<u32>,
    n_words: usize,
    n_answers: usize,
    dictionaries: DictFingerprint,
    /// Computed on first use, in a pass over all questions.
    pub(super) questions_digest: OnceLock<String>,
}

/// Where an image's regions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    pub(crate) source: u32,
    pub(crate) row: u32,
}

impl Dataset {
    /// Joins a split with the regions of its images, from one [`RegionSource`] for each source of the split.
    ///
    /// # Errors
    ///
    /// When images lack features (the message says how many, and names the first few), or the sources differ in feature
    /// dimension or extractor.
    ///
    /// # Panics
    ///
    /// When the number of region sources differs from the number of sources in the split.
    pub fn new(
        split: Split,
        words: &WordDict,
        answers: &AnswerDict,
        max_len: usize,
        sources: Vec<Arc<dyn RegionSource>>,
    ) -> Result<Dataset> {
        assert_eq!(sources.len() + 1, split.source_starts.len(), "a region source for each source of the split");
        if let Some(other) = sources.iter().find(|other| other.feature_dim() != sources[0].feature_dim()) {
            let message = format!(
                "{} has features of {} values, but {} of {}: the sources of a split must agree",
                sources[0].name(),
                sources[0].feature_dim(),
                other.name(),
                other.feature_dim()
            );
            return Err(Error::Mismatch {
                paths: [&sources[0], other].map(|source| source.name().into()).into(),
                message,
            });
        }
        if let Some(known) = sources.iter().find(|source| source.extractor().is_some()) {
            let name = known.name();
            for other in &sources {
                let other_name = other.name();
                if let Some(problem) = ExtractorInfo::mismatch(other.extractor(), known.extractor(), &name) {
                    let message = format!("{other_name}: {problem}");
                    return Err(Error::Mismatch { paths: vec![other_name.into(), name.into()], message });
                }
            }
        }
        let mut locations = Vec::with_capacity(split.len());
        for (index, source) in sources.iter().enumerate() {
            let mut missing = HashSet::new();
            for question in &split.questions[split.source_starts[index]..split.source_starts[index + 1]] {
                let row = source.row(question.image_id).unwrap_or_else(|| {
                    missing.insert(question.image_id);
                    0
                });
                locations.push(Location { source: index as u32, row: row as u32 });
            }
            if !missing.is_empty() {
                let mut missing: Vec<u64> = missing.into_iter().collect();
                let message = format!(
                    "{}: it lacks the features of {} of the questions (image ids {}): extract them too, or \
                     use the file that belongs to these questions",
                    source.name(),
                    counted(missing.len(), "image"),
                    first_few(&mut missing)
                );
                return Err(Error::Mismatch { paths: vec![source.name().into()], message });
            }
        }
        let encoded = EncodedQuestions::new(&split, words, answers, max_len);
        if encoded.n_unknown_words > 0 {
            tracing::warn!(
                "{} words of the questions are not in the dictionary, so they are read as padding ({})",
                encoded.n_unknown_words,
                first_unknown_words(&split, words).join(", ")
            );
        }
        let mut images = locations.clone();
        images.sort_unstable();
        images.dedup();
        let index = |location| images.binary_search(location).expect("it is one of them") as u32;
        let image_of = locations.iter().map(index).collect();
        let (n_words, n_answers) = (words.len(), answers.len());
        let dictionaries = DictFingerprint::of(words, answers);
        let questions_digest = OnceLock::new();
        Ok(Dataset { split, encoded, sources, images, image_of, n_words, n_answers, dictionaries, questions_digest })
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.split.len()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.split.is_empty()
    }

    /// The questions and annotations as text.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The questions and annotations as tokens and soft targets.
    pub fn encoded(&self) -> &EncodedQuestions {
        &self.encoded
    }

    /// Number of words in the dictionary that the questions are encoded with.
    pub fn n_words(&self) -> usize {
        self.n_words
    }

    /// Number of answers in the dictionary that the answers are encoded with.
    pub fn n_answers(&self) -> usize {
        self.n_answers
    }

    /// Digests of the dictionaries that the split is encoded with.
    pub(crate) fn dictionaries(&self) -> &DictFingerprint {
        &self.dictionaries
    }

    /// Length D of a region's feature vector.
    pub fn feature_dim(&self) -> usize {
        self.sources.first().map_or(0, |source| source.feature_dim())
    }

    /// How the regions were extracted, if one of the sources says so.
    pub fn extractor(&self) -> Option<&ExtractorInfo> {
        self.sources.iter().find_map(|source| source.extractor())
    }

    /// Number of distinct images, which are ordered by source and row.
    pub fn n_images(&self) -> usize {
        self.images.len()
    }

    /// Number of regions of an image.
    pub fn n_regions(&self, image: usize) -> usize {
        self.source(self.images[image]).n_regions(self.images[image].row as usize)
    }

    /// A type that holds all features exactly.
    pub fn element_type(&self) -> ElementType {
        let halves = self.sources.iter().all(|source| source.element_type() == ElementType::F16);
        if halves { ElementType::F16 } else { ElementType::F32 }
    }

    /// Reads the regions of a range of images in parallel, concatenated in order: features [regions, D] and boxes
    /// [regions, 4].
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are NaN or infinite.
    ///
    /// # Panics
    ///
    /// When `features` or `boxes` has the wrong length.
    pub fn read_regions(&self, images: Range<usize>, features: &mut [f32], boxes: &mut [f32]) -> Result<()> {
        let (mut features, mut boxes) = (features, boxes);
        let mut shares = Vec::with_capacity(images.len());
        for image in images {
            let n = self.n_regions(image);
            let (of_features, of_boxes);
            (of_features, features) = features.split_at_mut(n * self.feature_dim());
            (of_boxes, boxes) = boxes.split_at_mut(n * 4);
            shares.push((self.images[image], of_features, of_boxes));
        }
        assert!(features.is_empty() && boxes.is_empty(), "as many values as the images have");
        shares.into_par_iter().try_for_each(|(location, features, boxes)| {
            self.source(location).read(location.row as usize, features, boxes)
        })
    }

    /// Names of the region sources, for messages.
    pub fn source_names(&self) -> String {
        let mut names: Vec<String> = self.sources.iter().map(|source| source.name()).collect();
        names.dedup();
        names.join(", ")
    }

    /// Asks the system to fetch the images of these questions from the disk in the background.
    pub(crate) fn prefetch(&self, questions: &[usize]) {
        let locations: HashSet<Location, FixedState> = questions.iter().map(|&i| self.location(i)).collect();
        locations.into_iter().for_each(|location| self.source(location).prefetch(location.row as usize));
    }

    pub(crate) fn location(&self, question: usize) -> Location {
        self.images[self.image(question)]
    }

    /// The index of a question's image among the distinct images.
    pub(crate) fn image(&self, question: usize) -> usize {
        self.image_of[question] as usize
    }

    pub(crate) fn source(&self, location: Location) -> &dyn RegionSource {
        &*self.sources[location.source as usize]
    }
}
