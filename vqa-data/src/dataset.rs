//! A split as numbers: tokens, soft targets, and where each question's regions are.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use rayon::prelude::*;

use crate::features::{ElementType, FeatureFile, RegionSource};
use crate::prepare::SplitReport;
use crate::split::{SplitConfig, first_few};
use crate::{AnswerDict, Error, Result, Split, WordDict, tokenize};

/// The soft targets of some questions as compressed rows: question i has the candidates `answers[r]` with
/// the scores `scores[r]`, r being `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftTargets {
    offsets: Vec<usize>,
    answers: Vec<u32>,
    scores: Vec<f32>,
}

impl Default for SoftTargets {
    fn default() -> SoftTargets {
        SoftTargets { offsets: vec![0], answers: Vec::new(), scores: Vec::new() }
    }
}

impl SoftTargets {
    /// Appends a question with its (candidate, score) pairs.
    pub fn push(&mut self, target: impl IntoIterator<Item = (u32, f32)>) {
        for (answer, score) in target {
            self.answers.push(answer);
            self.scores.push(score);
        }
        self.offsets.push(self.answers.len());
    }

    /// Appends the questions of others.
    pub(crate) fn append(&mut self, others: &SoftTargets) {
        let offset = self.answers.len();
        self.offsets.extend(others.offsets[1..].iter().map(|end| end + offset));
        self.answers.extend_from_slice(&others.answers);
        self.scores.extend_from_slice(&others.scores);
    }

    /// Appends questions without candidates until there are `n`.
    pub(crate) fn resize(&mut self, n: usize) {
        self.offsets.resize(n + 1, self.answers.len());
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no question.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The candidates of question `i` and their scores.
    pub fn of(&self, i: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = self.offsets[i]..self.offsets[i + 1];
        self.answers[range.clone()].iter().copied().zip(self.scores[range].iter().copied())
    }

    /// The score that answering question `i` with `answer` earns, 0 to 1.
    pub fn score(&self, i: usize, answer: u32) -> f32 {
        self.of(i).find_map(|(candidate, score)| (candidate == answer).then_some(score)).unwrap_or(0.0)
    }

    /// The highest score that question `i` allows, 0 to 1.
    pub fn best(&self, i: usize) -> f32 {
        self.of(i).map(|(_, score)| score).fold(0.0, f32::max)
    }

    /// The sum over all questions of the score that `predicted` earns, one candidate a question.
    pub fn total_score(&self, predicted: &[i64]) -> f64 {
        predicted.iter().enumerate().map(|(i, &answer)| f64::from(self.score(i, answer as u32))).sum()
    }

    /// The sum over all questions of the highest score they allow.
    pub fn total_best(&self) -> f64 {
        (0..self.len()).map(|i| f64::from(self.best(i))).sum()
    }
}

/// The questions of a split as tokens and soft targets.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedQuestions {
    /// [n_questions, max_len], padded in front.
    pub tokens: Vec<i64>,
    /// Number of tokens of a question.
    pub max_len: usize,
    /// The soft targets; no candidates at all if the split has no annotations.
    pub targets: SoftTargets,
    n_cut: usize,
    n_unknown_words: usize,
}

impl EncodedQuestions {
    /// Encodes a split.
    pub fn new(split: &Split, words: &WordDict, answers: &AnswerDict, max_len: usize) -> EncodedQuestions {
        let mut tokens = vec![0; split.len() * max_len];
        let (n_cut, n_unknown_words) = tokens
            .par_chunks_mut(max_len)
            .zip(&split.questions)
            .map_init(String::new, |buffer, (tokens, question)| {
                let encoded = words.encode_with(&question.question, tokens, buffer);
                (usize::from(encoded.n_words > max_len), encoded.n_unknown)
            })
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let mut targets = answers.soft_targets(&split.annotations);
        targets.resize(split.len());
        EncodedQuestions { tokens, max_len, targets, n_cut, n_unknown_words }
    }

    /// What a training run will see of `split`, which this was made from.
    pub fn report(&self, split: &Split) -> SplitReport {
        let n = split.len();
        let annotated = !split.annotations.is_empty();
        SplitReport {
            n_questions: n,
            n_images: {
                let ids = split.questions.iter().map(|question| question.image_id);
                ids.collect::<HashSet<_, FixedState>>().len()
            },
            n_cut: self.n_cut,
            n_unknown_words: self.n_unknown_words,
            n_without_answer: if annotated {
                (0..n).filter(|&i| self.targets.of(i).next().is_none()).count()
            } else {
                0
            },
            upper_bound: annotated.then(|| 100.0 * self.targets.total_best() / n as f64),
        }
    }
}

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

/// Everything that batches are made of: a split, encoded, with its region features.
pub struct Dataset {
    split: Split,
    encoded: EncodedQuestions,
    sources: Vec<Arc<dyn RegionSource>>,
    /// The distinct images of the questions, by source and row.
    images: Vec<Location>,
    /// For each question, its image's place among them.
    image_of: Vec<u32>,
}

/// Where an image's regions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    pub(crate) source: u32,
    pub(crate) row: u32,
}

impl Dataset {
    /// Joins a split with the regions of its images, one [`RegionSource`] for each source of the split.
    ///
    /// # Errors
    ///
    /// When images lack features (they are counted, and the first few named), or the sources' feature
    /// dimensions differ.
    ///
    /// # Panics
    ///
    /// When the number of region sources is not that of the split.
    pub fn new(
        split: Split,
        words: &WordDict,
        answers: &AnswerDict,
        max_len: usize,
        sources: Vec<Arc<dyn RegionSource>>,
    ) -> Result<Dataset> {
        assert_eq!(sources.len() + 1, split.source_starts.len(), "a region source for each source of the split");
        if let Some(other) = sources.iter().find(|other| other.feature_dim() != sources[0].feature_dim()) {
            return Err(Error::Mismatch(format!(
                "{} has features of {} numbers, and {} of {}: the sources of a split must agree",
                sources[0].name(),
                sources[0].feature_dim(),
                other.name(),
                other.feature_dim()
            )));
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
                return Err(Error::Mismatch(format!(
                    "{}: {} image(s) of the questions have no features in it (image ids {}): extract them too, or take the file that belongs to these questions",
                    source.name(),
                    missing.len(),
                    first_few(&mut missing)
                )));
            }
        }
        let encoded = EncodedQuestions::new(&split, words, answers, max_len);
        if encoded.n_unknown_words > 0 {
            tracing::warn!(
                "{} words of the questions are not in the dictionary, and read as no word ({})",
                encoded.n_unknown_words,
                first_unknown_words(&split, words).join(", ")
            );
        }
        let mut images = locations.clone();
        images.sort_unstable();
        images.dedup();
        let place = |location| images.binary_search(location).expect("it is one of them") as u32;
        let image_of = locations.iter().map(place).collect();
        Ok(Dataset { split, encoded, sources, images, image_of })
    }

    /// Opens the feature files that a split's config names, and joins them with the split.
    ///
    /// # Errors
    ///
    /// Those of [`FeatureFile::open`] and [`Dataset::new`]; and when a source names no feature file.
    pub fn open(
        split: Split,
        config: &SplitConfig,
        words: &WordDict,
        answers: &AnswerDict,
        max_len: usize,
    ) -> Result<Dataset> {
        let mut open: HashMap<&std::path::Path, Arc<dyn RegionSource>> = HashMap::new();
        let mut sources = Vec::new();
        for source in &config.composition {
            let Some(path) = source.features.as_deref() else {
                return Err(Error::Mismatch(
                    "a source of the split names no feature file: add features = \"…\" to its composition".to_owned(),
                ));
            };
            if !open.contains_key(path) {
                open.insert(path, Arc::new(FeatureFile::open(path)?));
            }
            sources.push(open[path].clone());
        }
        Dataset::new(split, words, answers, max_len, sources)
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.split.len()
    }

    /// Whether there is no question.
    pub fn is_empty(&self) -> bool {
        self.split.is_empty()
    }

    /// The questions and annotations as text.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The questions and annotations as numbers.
    pub fn encoded(&self) -> &EncodedQuestions {
        &self.encoded
    }

    /// Length D of a region's feature vector.
    pub fn feature_dim(&self) -> usize {
        self.sources.first().map_or(0, |source| source.feature_dim())
    }

    /// Number of distinct images. They are in order of where their features are.
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

    /// Reads the features of some images, in parallel: their regions one after the other, [regions, D].
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are NaN or infinite.
    ///
    /// # Panics
    ///
    /// When `features` has another length.
    pub fn read_features(&self, images: Range<usize>, features: &mut [f32]) -> Result<()> {
        let mut rest = features;
        let mut places = Vec::with_capacity(images.len());
        for image in images {
            let (place, behind) = rest.split_at_mut(self.n_regions(image) * self.feature_dim());
            places.push((self.images[image], place));
            rest = behind;
        }
        assert!(rest.is_empty(), "as many numbers as the images have");
        places.into_par_iter().try_for_each(|(location, features)| {
            let source = self.source(location);
            let mut boxes = vec![0.0; source.n_regions(location.row as usize) * 4];
            source.read(location.row as usize, features, &mut boxes)
        })
    }

    /// Names of the region sources, for messages.
    pub fn source_names(&self) -> String {
        let mut names: Vec<String> = self.sources.iter().map(|source| source.name()).collect();
        names.dedup();
        names.join(", ")
    }

    /// Has the images of these questions fetched from the disk while this goes on.
    pub(crate) fn prefetch(&self, questions: &[usize]) {
        let locations: HashSet<Location, FixedState> = questions.iter().map(|&i| self.location(i)).collect();
        locations.into_iter().for_each(|location| self.source(location).prefetch(location.row as usize));
    }

    pub(crate) fn location(&self, question: usize) -> Location {
        self.images[self.image(question)]
    }

    /// The place of a question's image among the distinct images.
    pub(crate) fn image(&self, question: usize) -> usize {
        self.image_of[question] as usize
    }

    pub(crate) fn source(&self, location: Location) -> &dyn RegionSource {
        &*self.sources[location.source as usize]
    }
}
