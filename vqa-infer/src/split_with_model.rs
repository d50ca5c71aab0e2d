//! A data split and the model that answers it.

use std::collections::{HashMap, HashSet};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use tch::Tensor;
use vqa_data::batches::{Batch, Dataset, Loader, LoaderOptions, Sampler, Share, open_sources};
use vqa_data::message::counted;
use vqa_data::questions::{ImagePaths, SourceConfig, Split, SplitConfig};
use vqa_model::feed::{Feed, FeedOptions};
use vqa_model::memory::or_out_of_memory;
use vqa_model::{ModelInput, VqaModel};

use crate::blind::shuffle_images;
use crate::ensemble::Ensemble;
use crate::error::{Error, Result};
use crate::occlusion::{Occlusion, OcclusionOptions, answer_without_top, occlude_all};
use crate::predict::{Answers, N_BEST, Prediction, RankedAnswers, Sum, answer_share, predictions, rank_share};
use crate::report::choice::{Choice, count_namesakes};
use crate::report::explained::ExplainedQuestion;
use crate::report::report::Report;

/// An answered question with the path of its picture, or why that is not known.
type Answered = (ExplainedQuestion, std::result::Result<PathBuf, String>);

/// A split, and the checkpoint or ensemble that answers it.
pub struct SplitWithModel {
    ensemble: Ensemble,
    loader: Loader,
    /// How many questions are drawn at a time.
    batch_size: usize,
    sources: Vec<SourceConfig>,
    /// Where the split is described, for error messages.
    place: String,
    /// Sums the results of several processes; `None` if this one is alone.
    sum: Option<Box<Sum<'static>>>,
}

impl SplitWithModel {
    /// Joins a checkpoint or an ensemble with a split. `config` describes the split, and `place` says where, for error
    /// messages. It answers in batches of `batch_size`, or else of twice the batch size of training: with no gradients
    /// to keep there is room for more, and larger batches share more images and beginnings of questions. Each batch is
    /// read once, for all members.
    ///
    /// # Errors
    ///
    /// When the features of the split cannot be opened, or are not of the kind that the model was trained on.
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
            sum: None,
        })
    }

    /// Distributes the split's batches over several processes. All of them get all answers, the same as those of a
    /// single process. `sum` sums a tensor over the processes, in place in each of them. Drawing and
    /// [occlusion](SplitWithModel::occlude) are not distributed.
    pub fn shared(
        self,
        process: usize,
        of: usize,
        sum: impl Fn(&mut Tensor) -> std::result::Result<(), String> + 'static,
    ) -> SplitWithModel {
        let loader = self.loader.with_share(Share::OfBatches { process, of });
        let sum = move |tensor: &mut Tensor| sum(tensor).map_err(|problem| Error::OtherProcess { problem });
        SplitWithModel { loader, sum: Some(Box::new(sum)), ..self }
    }

    fn sum(&self, tensor: &mut Tensor) -> Result<()> {
        self.sum.as_ref().map_or(Ok(()), |sum| sum(tensor))
    }

    /// The split.
    pub fn dataset(&self) -> &Dataset {
        self.loader.dataset()
    }

    /// The model: an ensemble of one or more checkpoints.
    pub fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    /// The batch size that was given, or else that of the run.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Where the split is described.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Answers the full split, in order. `progress` is called with the number of questions just done.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn answer_all(&self, progress: &mut dyn FnMut(u64)) -> Result<Answers> {
        self.answer(&self.loader, progress)
    }

    /// Returns the best `n_best` answers to each question of the split, or all if there are fewer candidates.
    /// `progress` is called with the number of questions just done.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn rank_all(&self, n_best: usize, progress: &mut dyn FnMut(u64)) -> Result<RankedAnswers> {
        self.with_feed(&self.loader, |feed| {
            rank_share(&self.ensemble, self.ensemble.loss(), feed, n_best, progress, &|tensor| self.sum(tensor))
        })
    }

    /// Answers the full split with each member of an ensemble alone. `progress` is called with the number of questions
    /// just done, for each member.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn answer_by_each(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Answers>> {
        let (loss, answers) = (self.ensemble.loss(), self.ensemble.answers());
        let answer = |member| {
            self.with_feed(&self.loader, |feed| {
                answer_share(&member, loss, feed, answers, progress, &|tensor| self.sum(tensor))
            })
        };
        self.ensemble.each_alone().map(answer).collect()
    }

    /// Answers the full split, and again with some regions of each image hidden. `progress` is called with the number
    /// of questions just done.
    ///
    /// # Errors
    ///
    /// When the features cannot be read, or no image has more regions than are to be hidden.
    pub fn occlude(&self, options: OcclusionOptions, progress: &mut dyn FnMut(u64)) -> Result<Occlusion> {
        self.check_occlusion(options.n_regions)?;
        let model = &self.ensemble;
        let occluded = self.with_feed(&self.loader.with_share(Share::All), |feed| {
            occlude_all(model, model.loss(), feed, options, progress)
        })?;
        Ok(Occlusion::mean(&occluded, options, &self.dataset().split().annotations))
    }

    /// Checks that some image has more regions than are to be hidden, before anything is answered.
    ///
    /// # Errors
    ///
    /// When none has.
    pub fn check_occlusion(&self, n_regions: usize) -> Result<()> {
        if (0..self.dataset().n_images()).any(|image| self.dataset().n_regions(image) > n_regions) {
            return Ok(());
        }
        let regions = counted(n_regions, "region");
        Err(self.problem(format!("no image has more than {regions}, so none would be left: remove fewer")))
    }

    /// Answers the full split with its images swapped by [`shuffle_images`], seeded with the run's seed.
    ///
    /// # Errors
    ///
    /// When the features cannot be read, or there is only one image.
    pub fn answer_blind(&self, progress: &mut dyn FnMut(u64)) -> Result<Answers> {
        let sources = open_sources(&self.sources)?;
        let split = self.dataset().split().clone();
        let shuffled = shuffle_images(&split, &sources, self.ensemble.first().seed()).ok_or_else(|| {
            self.problem("all of its questions are about one image, so there is no other to ask about")
        })?;
        let max_len = self.dataset().encoded().max_len;
        // Its warnings were given when the split was opened.
        let silent = tracing::subscriber::NoSubscriber::default();
        let dataset = tracing::subscriber::with_default(silent, || {
            Dataset::new(split, self.ensemble.words(), self.ensemble.answers(), max_len, shuffled)
        })?;
        self.answer(&Loader::new(Arc::new(dataset), *self.loader.options()), progress)
    }

    fn answer(&self, loader: &Loader, progress: &mut dyn FnMut(u64)) -> Result<Answers> {
        self.with_feed(loader, |feed| {
            answer_share(&self.ensemble, self.ensemble.loss(), feed, self.ensemble.answers(), progress, &|tensor| {
                self.sum(tensor)
            })
        })
    }

    /// Runs `work` on the batches of a loader, on the ensemble's device.
    fn with_feed<T>(&self, loader: &Loader, work: impl FnOnce(&Feed) -> Result<T>) -> Result<T> {
        let options = FeedOptions { kind: self.ensemble.kind(), ..FeedOptions::new(self.ensemble.device()) };
        or_out_of_memory(|| work(&Feed::new(loader, options, &mut |_, _| {})?))?
    }

    /// A text that differs whenever the answers may differ: digests of the split, its features and the dictionaries,
    /// and the file names of the weights.
    ///
    /// # Errors
    ///
    /// When the features cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let names = self.ensemble.members().map(|member| member.path().file_name().unwrap_or_default().to_owned());
        Ok(format!("{:?}, {:?}", names.collect::<Vec<_>>(), self.dataset().fingerprint()?))
    }

    /// A text that differs whenever the attention may differ: the checkpoint and feature files, each with its size and
    /// modification time.
    pub fn identity(&self) -> String {
        let features = self.sources.iter().filter_map(|source| source.features.as_deref());
        let files = self.ensemble.members().map(|member| member.path()).chain(features);
        let of_file = |path: &Path| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let known = std::fs::metadata(path).ok();
            let n_bytes = known.as_ref().map(std::fs::Metadata::len);
            format!("{} {n_bytes:?} {:?}\n", absolute.display(), known.and_then(|known| known.modified().ok()))
        };
        files.map(of_file).collect()
    }

    /// The indices of the questions that a choice selects, in ascending order. `answers` are those to the full split,
    /// if the choice needs scores.
    ///
    /// # Errors
    ///
    /// Those of [`Choice::of`].
    pub fn choose(&self, choice: &Choice, answers: Option<&Answers>) -> Result<Vec<usize>> {
        let scores = answers.map(|answers| &*answers.scores);
        choice.of(self.dataset().split(), scores).map_err(|problem| self.problem(problem))
    }

    /// Checks that the split has what a choice needs, before anything is answered.
    ///
    /// # Errors
    ///
    /// Those of [`Choice::check`].
    pub fn check_choice(&self, choice: &Choice) -> Result<()> {
        choice.check(self.dataset().split()).map_err(|problem| self.problem(problem))
    }

    /// Answers some questions, given by their indices in the split, and adds them to a report; the next batch is
    /// answered while one is drawn. With `without_top` each is asked once more with the most attended region hidden.
    /// `progress` is called with the number of questions just done.
    ///
    /// # Errors
    ///
    /// When features cannot be read, the split does not say where its pictures are, or the report cannot be written.
    pub fn explain(
        &self,
        questions: &[usize],
        without_top: bool,
        report: &mut Report,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let image_paths = self.image_paths(questions)?;
        let n_earlier_of_id = count_namesakes(self.dataset().split(), questions);
        // One batch waits while another is drawn.
        let (sender, receiver) = mpsc::sync_channel::<Vec<Answered>>(1);
        thread::scope(|scope| {
            let drawing = scope.spawn(move || -> Result<()> {
                for batch in receiver {
                    let mut explained = Vec::with_capacity(batch.len());
                    for (question, picture) in batch {
                        match picture {
                            Ok(picture) => explained.push(ExplainedQuestion { picture, ..question }),
                            Err(problem) => {
                                report.skip(question.question_id, &question.question, problem);
                                progress(1);
                            }
                        }
                    }
                    report.add_all(&explained, progress)?;
                }
                Ok(())
            });
            let answered = questions.chunks(self.batch_size).try_for_each(|questions| {
                let batch = Batch::gather(self.dataset(), questions)?;
                let explained = self.explain_batch(&batch, without_top, &n_earlier_of_id)?;
                let pictures = batch.questions.iter().zip(&batch.image_ids).map(|(&question, &image_id)| {
                    let paths = &image_paths[&self.dataset().split().source_of(question)];
                    paths.path(image_id).map_err(|error| error.to_string())
                });
                // If the drawing thread has stopped, its error is returned below.
                let _ = sender.send(explained.into_iter().zip(pictures).collect());
                Ok(())
            });
            drop(sender);
            let drawn = drawing.join().unwrap_or_else(|panic| resume_unwind(panic));
            drawn.and(answered)
        })
    }

    /// The model's answers to the questions of a batch, with the paths of their pictures still empty.
    fn explain_batch(
        &self,
        batch: &Batch,
        without_top: bool,
        n_earlier_of_id: &HashMap<usize, usize>,
    ) -> Result<Vec<ExplainedQuestion>> {
        let ensemble = &self.ensemble;
        let loss = ensemble.loss();
        let (predictions, without) = or_out_of_memory(|| {
            let input = ModelInput::from_batch(batch, ensemble.device(), ensemble.kind());
            let output = ensemble.infer(&input);
            let n_regions = |question: usize| batch.n_regions[batch.image_rows[question] as usize];
            let without = match without_top {
                true => answer_without_top(ensemble, loss, batch, &input, &output.attention),
                false => vec![None; batch.len()],
            };
            (predictions(&output, loss, n_regions, N_BEST), without)
        })?;
        let text = |answer: i64| ensemble.answers().answers()[answer as usize].clone();
        let probable = |(answer, p): (i64, f32)| (text(answer), p);
        let split = self.dataset().split();
        let explain = |(i, (prediction, without_top)): (usize, (Prediction, Option<(i64, f32)>))| {
            let question = batch.questions[i];
            let annotation = split.annotations.get(question);
            ExplainedQuestion {
                question_id: batch.question_ids[i],
                n_earlier_of_id: n_earlier_of_id[&question],
                question: split.questions[question].question.to_string(),
                answer_type: annotation.map(|annotation| annotation.answer_type.to_owned()),
                question_type: annotation.map(|annotation| annotation.question_type.to_owned()),
                answer: text(prediction.answer),
                best: prediction.best.into_iter().map(probable).collect(),
                without_top: without_top.map(probable),
                annotators: annotation.map(|annotation| annotation.counted_answers()).unwrap_or_default(),
                soft_score: annotation.map(|_| batch.targets.score(i, prediction.answer as u32)),
                picture: PathBuf::new(),
                boxes: batch.boxes_of(i).collect(),
                attention: prediction.attention,
            }
        };
        Ok(predictions.into_iter().zip(without).enumerate().map(explain).collect())
    }

    /// Where the pictures of some questions are, by source.
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

/// The order of the files if the questions about each image are consecutive there, as in VQA 2.0; otherwise one that
/// groups them by image, so that each image is read and projected once.
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
