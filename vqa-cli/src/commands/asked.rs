//! A trained model and the split that it is asked about.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tch::Kind;
use vqa_data::{
    Batch, Dataset, FeatureFile, Loader, LoaderOptions, RegionSource, Sampler, SourceConfig, Split, image_path,
};
use vqa_infer::{Answers, Checkpoint, Explained, Report, answer_all, predict_batch, shuffle_images};
use vqa_model::parse_device;

use crate::args::ModelArgs;
use crate::commands::split;
use crate::config::Config;
use crate::terminal::Progress;

/// A model from a checkpoint, and a split.
pub struct Asked {
    checkpoint: Checkpoint,
    loader: Loader,
    batch_size: usize,
    /// The number type of the arithmetic: the one that it was trained in.
    kind: Kind,
    sources: Vec<SourceConfig>,
    /// The run's.
    seed: u64,
    /// Where the split is described, for errors about it.
    place: String,
}

impl Asked {
    /// Loads the checkpoint, and the split from the run's config or from another.
    pub fn open(args: &ModelArgs) -> Result<Asked> {
        let run_config = Config::load(&args.checkpoint.with_file_name("config.toml"), &[]);
        let device = match (&args.device, &run_config) {
            (Some(device), _) => device.as_str(),
            (None, Ok(config)) => config.device.as_str(),
            (None, Err(_)) => "auto",
        };
        // Before the config's own errors: a checkpoint that is missing or damaged has none worth reading.
        let checkpoint = Checkpoint::open(&args.checkpoint, parse_device(device)?)?;
        let mut config = run_config?;
        if let Some(other) = &args.config {
            let other = Config::load(other, &[])?;
            (config.data, config.path) = (other.data, other.path);
        }
        let dataset = split::dataset(&config, &args.data, checkpoint.words(), checkpoint.answers())?;
        checkpoint.check(&dataset)?;
        let given = args.batch_size.map(|size| size as usize);
        let batch_size = given.unwrap_or(split::answering_batch_size(&config));
        let options = LoaderOptions { batch_size, sampler: sampler(dataset.split()), ..LoaderOptions::default() };
        Ok(Asked {
            seed: config.seed,
            checkpoint,
            loader: Loader::new(Arc::new(dataset), options),
            batch_size: given.unwrap_or(config.train.batch_size),
            kind: config.train.precision.kind(),
            sources: config.split(&args.data)?.composition.clone(),
            place: config.place(&args.data),
        })
    }

    /// The split.
    pub fn dataset(&self) -> &Dataset {
        self.loader.dataset()
    }

    /// Questions in a batch of the run, or as many as were asked for.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The name of the checkpoint.
    pub fn name(&self) -> String {
        self.checkpoint.name()
    }

    /// Where the split is described, for errors about it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Answers the whole split, in its order.
    pub fn answer_all(&self) -> Result<Answers> {
        self.answer("answer", &self.loader)
    }

    /// Answers the whole split with other images in the places of its own, as [`shuffle_images`] does.
    pub fn answer_blind(&self) -> Result<Answers> {
        let mut open: HashMap<&Path, Arc<dyn RegionSource>> = HashMap::new();
        let mut sources = Vec::new();
        for source in &self.sources {
            let path = source.features.as_deref().with_context(|| format!("{}: it names no features", self.place))?;
            if !open.contains_key(path) {
                open.insert(path, Arc::new(FeatureFile::open(path)?));
            }
            sources.push(open[path].clone());
        }
        let split = self.dataset().split().clone();
        let shuffled = shuffle_images(&split, &sources, self.seed).with_context(|| {
            format!("{}: all of its questions are about one image, so there is none to exchange it for", self.place)
        })?;
        let max_len = self.dataset().encoded().max_len;
        // What it warns of was said when the split was opened.
        let silent = tracing::subscriber::NoSubscriber::default();
        let dataset = tracing::subscriber::with_default(silent, || {
            Dataset::new(split, self.checkpoint.words(), self.checkpoint.answers(), max_len, shuffled)
        })?;
        self.answer("blind", &Loader::new(Arc::new(dataset), *self.loader.options()))
    }

    fn answer(&self, what: &'static str, loader: &Loader) -> Result<Answers> {
        let progress = Progress::new(what, "questions", loader.dataset().len() as u64);
        let checkpoint = &self.checkpoint;
        Ok(answer_all(checkpoint.model(), loader, checkpoint.answers(), checkpoint.device(), self.kind, &mut |n| {
            progress.add(n)
        })?)
    }

    /// Answers the questions at these places of the split and adds them to a report.
    pub fn explain(&self, questions: &[usize], report: &mut Report) -> Result<()> {
        let progress = Progress::new("draw", "questions", questions.len() as u64);
        let (model, device) = (self.checkpoint.model(), self.checkpoint.device());
        let text = |answer: i64| self.checkpoint.answers().answers()[answer as usize].clone();
        for questions in questions.chunks(self.batch_size()) {
            let batch = Batch::gather(self.dataset(), questions)?;
            let predictions = predict_batch(model, self.checkpoint.config().loss, &batch, device, self.kind);
            for (i, prediction) in predictions.into_iter().enumerate() {
                let split = self.dataset().split();
                let place = batch.questions[i];
                let annotation = split.annotations.get(place);
                report.add(&Explained {
                    question_id: batch.question_ids[i],
                    question: split.questions[place].question.to_string(),
                    answer: text(prediction.answer),
                    best: prediction.best.iter().map(|&(answer, p)| (text(answer), p)).collect(),
                    annotators: annotation.map(|annotation| annotation.counted_answers()).unwrap_or_default(),
                    soft_score: annotation.map(|_| batch.targets.score(i, prediction.answer as u32)),
                    picture: self.picture(place, batch.image_ids[i])?,
                    boxes: batch.boxes_of(i).collect(),
                    attention: prediction.attention,
                })?;
                progress.add(1);
            }
        }
        Ok(())
    }

    fn picture(&self, question: usize, image_id: u64) -> Result<PathBuf> {
        let source = &self.sources[self.dataset().split().source_of(question)];
        let template = source.images.as_ref().with_context(|| {
            format!(
                "{}: it does not say where the pictures are: add images = \"…/{{image_id:012}}.jpg\" to its composition, and give that config with --config",
                self.place
            )
        })?;
        image_path(template, image_id).with_context(|| self.place.clone())
    }
}

/// The order of the files where an image's questions follow each other in them, as in VQA2.0's; otherwise one that brings them
/// together, so that each image is read and projected once.
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
