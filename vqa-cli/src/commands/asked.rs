//! A trained model and the split that it is asked about.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tch::Kind;
use vqa_data::{Batch, Dataset, Loader, LoaderOptions, Sampler, SourceConfig, image_path};
use vqa_infer::{Answers, Checkpoint, Explained, Report, answer_all, predict_batch};
use vqa_model::parse_device;

use crate::args::ModelArgs;
use crate::commands::split;
use crate::config::Config;
use crate::terminal::Progress;

/// A model from a checkpoint, and a split.
pub struct Asked {
    checkpoint: Checkpoint,
    loader: Loader,
    /// The number type of the arithmetic: the one that it was trained in.
    kind: Kind,
    sources: Vec<SourceConfig>,
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
        let batch_size = args.batch_size.map_or(config.train.batch_size, |size| size as usize);
        let options = LoaderOptions { batch_size, sampler: Sampler::Sequential, ..LoaderOptions::default() };
        Ok(Asked {
            checkpoint,
            loader: Loader::new(Arc::new(dataset), options),
            kind: config.train.precision.kind(),
            sources: config.split(&args.data)?.composition.clone(),
            place: config.place(&args.data),
        })
    }

    /// The split.
    pub fn dataset(&self) -> &Dataset {
        self.loader.dataset()
    }

    /// Questions in a batch.
    pub fn batch_size(&self) -> usize {
        self.loader.options().batch_size
    }

    /// The name of the checkpoint.
    pub fn name(&self) -> String {
        self.checkpoint.name()
    }

    /// Where the split is described, for errors about it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Answers the whole split.
    pub fn answer_all(&self) -> Result<Answers> {
        let progress = Progress::new("answer", "questions", self.dataset().len() as u64);
        let checkpoint = &self.checkpoint;
        Ok(answer_all(
            checkpoint.model(),
            &self.loader,
            checkpoint.answers(),
            checkpoint.device(),
            self.kind,
            &mut |n| progress.add(n),
        )?)
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
