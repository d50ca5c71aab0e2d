//! A data split and the model that is asked about it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use vqa_data::batches::{Batch, Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::{FeatureFile, RegionSource};
use vqa_data::questions::{ImagePaths, SourceConfig, Split, SplitConfig};
use vqa_model::feed::{Feed, FeedOptions};
use vqa_model::memory::or_out_of_memory;

use crate::blind::shuffle_images;
use crate::ensemble::Ensemble;
use crate::error::{Error, Result};
use crate::occlusion::{Occlusion, OcclusionOptions, occlude_all};
use crate::predict::{Answers, RankedAnswers, answer_all, predict_batch, rank_all};
use crate::report::explained::Explained;
use crate::report::report::Report;

/// A checkpoint, or an ensemble of some, and a split that it is asked about.
pub struct SplitWithModel {
    ensemble: Ensemble,
    loader: Loader,
    /// Questions that are drawn at a time.
    batch_size: usize,
    sources: Vec<SourceConfig>,
    /// Where the split is described, for errors about it.
    place: String,
}

impl SplitWithModel {
    /// Joins a checkpoint, or an ensemble, with a split that `config` describes, and `place` says where. Answers in
    /// batches of `batch_size`, or else of twice what it was trained in: with no gradients to keep there is room for
    /// more, and larger batches share more images and beginnings of questions. Each batch is read once, for all
    /// members.
    ///
    /// # Errors
    ///
    /// When the features of the split cannot be opened, or are not such as the model was trained on.
    pub fn new(
        model: impl Into<Ensemble>,
        split: Split,
        config: &SplitConfig,
        place: String,
        batch_size: Option<usize>,
    ) -> Result<SplitWithModel> {
        let ensemble = model.into();
        let max_len = ensemble.max_question_len();
        let dataset = Dataset::open(split, config, ensemble.words(), ensemble.answers(), max_len)
            .map_err(|error| Error::Split { place: place.clone(), problem: error.to_string() })?;
        ensemble.check(&dataset)?;
        let options = LoaderOptions {
            batch_size: batch_size.unwrap_or(2 * ensemble.first().batch_size()),
            sampler: sampler(dataset.split()),
            ..LoaderOptions::default()
        };
        Ok(SplitWithModel {
            loader: Loader::new(Arc::new(dataset), options),
            batch_size: batch_size.unwrap_or(ensemble.first().batch_size()),
            sources: config.composition.clone(),
            ensemble,
            place,
        })
    }

    /// The split.
    pub fn dataset(&self) -> &Dataset {
        self.loader.dataset()
    }

    /// What is asked.
    pub fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    /// Questions in a batch of the run, or as many as were asked for.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Where the split is described.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Answers the whole split, in its order. `progress` is called with the number of questions just done.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn answer_all(&self, progress: &mut dyn FnMut(u64)) -> Result<Answers> {
        self.answer(&self.loader, progress)
    }

    /// The best `n_best` answers to each question of the split, or all where there are fewer candidates. `progress` is
    /// called with the number of questions just done.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn rank_all(&self, n_best: usize, progress: &mut dyn FnMut(u64)) -> Result<RankedAnswers> {
        self.with_feed(&self.loader, |feed| rank_all(&self.ensemble, self.ensemble.loss(), feed, n_best, progress))
    }

    /// Answers the whole split with each member of an ensemble alone. `progress` is called with the number of questions
    /// just done, for each member.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn answer_by_each(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Answers>> {
        let (loss, answers) = (self.ensemble.loss(), self.ensemble.answers());
        let answer = |member| self.with_feed(&self.loader, |feed| answer_all(&member, loss, feed, answers, progress));
        self.ensemble.each_alone().map(answer).collect()
    }

    /// Answers the whole split, and again without some regions of each image. `progress` is called with the number of
    /// questions just done.
    ///
    /// # Errors
    ///
    /// When the features cannot be read, or no image has as many regions as are to be taken away and one more.
    pub fn occlude(&self, options: OcclusionOptions, progress: &mut dyn FnMut(u64)) -> Result<Occlusion> {
        let model = &self.ensemble;
        let occluded =
            self.with_feed(&self.loader, |feed| occlude_all(model, model.loss(), feed, options, progress))?;
        if occluded.iter().all(Option::is_none) {
            let n = options.n_regions;
            return Err(
                self.problem(format!("no image has more than {n} region(s), so none would be left: take fewer away"))
            );
        }
        Ok(Occlusion::mean(&occluded, options, &self.dataset().split().annotations))
    }

    /// Answers the whole split with other images in the places of its own, as [`shuffle_images`] does by the run's
    /// seed.
    ///
    /// # Errors
    ///
    /// When the features cannot be read, or there is only one image.
    pub fn answer_blind(&self, progress: &mut dyn FnMut(u64)) -> Result<Answers> {
        let mut open: HashMap<&Path, Arc<dyn RegionSource>> = HashMap::new();
        let mut sources = Vec::new();
        for source in &self.sources {
            let path = source.features.as_deref().ok_or_else(|| self.problem("it names no features"))?;
            if !open.contains_key(path) {
                open.insert(path, Arc::new(FeatureFile::open(path)?));
            }
            sources.push(open[path].clone());
        }
        let split = self.dataset().split().clone();
        let shuffled = shuffle_images(&split, &sources, self.ensemble.first().seed()).ok_or_else(|| {
            self.problem("all of its questions are about one image, so there is none to exchange it for")
        })?;
        let max_len = self.dataset().encoded().max_len;
        // What it warns of was said when the split was opened.
        let silent = tracing::subscriber::NoSubscriber::default();
        let dataset = tracing::subscriber::with_default(silent, || {
            Dataset::new(split, self.ensemble.words(), self.ensemble.answers(), max_len, shuffled)
        })?;
        self.answer(&Loader::new(Arc::new(dataset), *self.loader.options()), progress)
    }

    fn answer(&self, loader: &Loader, progress: &mut dyn FnMut(u64)) -> Result<Answers> {
        self.with_feed(loader, |feed| {
            answer_all(&self.ensemble, self.ensemble.loss(), feed, self.ensemble.answers(), progress)
        })
    }

    /// Does something with the batches of a loader on the ensemble's device.
    fn with_feed<T>(&self, loader: &Loader, work: impl FnOnce(&Feed) -> Result<T>) -> Result<T> {
        let options = FeedOptions { kind: self.ensemble.kind(), ..FeedOptions::new(self.ensemble.device()) };
        or_out_of_memory(|| work(&Feed::new(loader, options, &mut |_, _| {})?))?
    }

    /// Answers some questions, by their places in the split, and adds them to a report. `progress` is called with the
    /// number of questions just done.
    ///
    /// # Errors
    ///
    /// When features or pictures cannot be read, or the report cannot be written.
    pub fn explain(&self, questions: &[usize], report: &mut Report, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let ensemble = &self.ensemble;
        let text = |answer: i64| ensemble.answers().answers()[answer as usize].clone();
        let split = self.dataset().split();
        let image_paths = self.image_paths(questions)?;
        for questions in questions.chunks(self.batch_size) {
            let batch = Batch::gather(self.dataset(), questions)?;
            let predictions = or_out_of_memory(|| {
                predict_batch(ensemble, ensemble.loss(), &batch, ensemble.device(), ensemble.kind())
            })?;
            for (i, prediction) in predictions.into_iter().enumerate() {
                let question = batch.questions[i];
                let annotation = split.annotations.get(question);
                report.add(&Explained {
                    question_id: batch.question_ids[i],
                    question: split.questions[question].question.to_string(),
                    answer: text(prediction.answer),
                    best: prediction.best.iter().map(|&(answer, p)| (text(answer), p)).collect(),
                    annotators: annotation.map(|annotation| annotation.counted_answers()).unwrap_or_default(),
                    soft_score: annotation.map(|_| batch.targets.score(i, prediction.answer as u32)),
                    picture: image_paths[&split.source_of(question)]
                        .path(batch.image_ids[i])
                        .map_err(|error| self.problem(error.to_string()))?,
                    boxes: batch.boxes_of(i).collect(),
                    attention: prediction.attention,
                })?;
                progress(1);
            }
        }
        Ok(())
    }

    /// Where the pictures of some questions are, by their sources.
    fn image_paths(&self, questions: &[usize]) -> Result<HashMap<usize, ImagePaths>> {
        let split = self.dataset().split();
        let sources: HashSet<usize> = questions.iter().map(|&question| split.source_of(question)).collect();
        let open = |source: usize| {
            let images = self.sources[source].images.as_ref().ok_or_else(|| {
                let problem = "it does not say where the pictures are: add images = \"…/{image_id:012}.jpg\", or a \
                    JSON file of ids and paths, to its composition, and give that config with --config";
                self.problem(problem)
            })?;
            let paths = ImagePaths::open(images).map_err(|error| self.problem(error.to_string()))?;
            Ok((source, paths))
        };
        sources.into_iter().map(open).collect()
    }

    fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Split { place: self.place.clone(), problem: problem.into() }
    }
}

/// The order of the files where an image's questions follow each other in them, as in VQA2.0's; otherwise one that
/// brings them together, so that each image is read and projected once.
fn sampler(split: &Split) -> Sampler {
    let mut seen = HashSet::new();
    let mut last = None;
    for (i, question) in split.questions.iter().enumerate() {
        let image = Some((split.source_of(i), question.image_id));
        if image != last && !seen.insert(image) {
            return Sampler::Grouped;
        }
        last = image;
    }
    Sampler::Sequential
}
