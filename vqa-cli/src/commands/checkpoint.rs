//! A trained model with the data to ask it about.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tch::{Device, nn::VarStore};
use vqa_data::{AnswerDict, Batch, Dataset, Loader, LoaderOptions, Sampler, SourceConfig, WordDict, image_path};
use vqa_infer::{Answers, Explained, Report, answer_all, predict_batch};
use vqa_model::{Baseline, DataDims, Header, load_weights, parse_device, read_header};

use crate::args::ModelArgs;
use crate::config::Config;
use crate::terminal::Progress;

/// A model from a checkpoint, and a split.
pub struct Asked {
    checkpoint: PathBuf,
    config: Config,
    answers: AnswerDict,
    device: Device,
    model: Baseline,
    /// Keeps the model's parameters.
    _vs: VarStore,
    loader: Loader,
    sources: Vec<SourceConfig>,
}

/// What a checkpoint's header says of the data that it was trained on.
pub fn header_of(dims: DataDims) -> Header {
    let DataDims { n_words, n_answers, feature_dim } = dims;
    [("n_words", n_words), ("n_answers", n_answers), ("feature_dim", feature_dim)]
        .map(|(key, value)| (key.to_owned(), value.to_string()))
        .into()
}

impl Asked {
    /// Loads the checkpoint, its config and dictionaries from beside it, and the split.
    pub fn open(args: &ModelArgs) -> Result<Asked> {
        let checkpoint = &args.checkpoint;
        let header = read_header(checkpoint)?;
        let run = checkpoint.parent().unwrap_or(Path::new(""));
        let mut config = Config::load(&run.join("config.toml"), &[])
            .context("a checkpoint's config.toml, words.json and answers.json are looked for beside it")?;
        if let Some(other) = &args.config {
            config.data = Config::load(other, &[])?.data;
        }
        let words = WordDict::load(&run.join("words.json"))?;
        let answers = AnswerDict::load(&run.join("answers.json"))?;
        let split = config.split(&args.data)?.clone();
        let dataset = Dataset::load(&split, &words, &answers, config.dict.max_question_len)
            .with_context(|| format!("split \"{}\"", args.data))?;

        let trained = |key: &str| header.get(key).and_then(|value| value.parse::<i64>().ok());
        let feature_dim = dataset.feature_dim() as i64;
        if let Some(trained_dim) = trained("feature_dim").filter(|&trained_dim| trained_dim != feature_dim) {
            bail!(
                "{}: {feature_dim} numbers a region, and {} was trained on {trained_dim}: take features from the same extractor (`vqa features extract --like` the training file)",
                dataset.source_names(),
                checkpoint.display()
            );
        }
        for (key, found, file) in
            [("n_words", words.len() as i64, "words.json"), ("n_answers", answers.len() as i64, "answers.json")]
        {
            if let Some(trained) = trained(key).filter(|&trained| trained != found) {
                bail!(
                    "{}: {found} entries, and {} was trained with {trained}: put the file of that run back",
                    run.join(file).display(),
                    checkpoint.display()
                );
            }
        }
        let device = parse_device(args.device.as_ref().unwrap_or(&config.device))?;
        let vs = VarStore::new(device);
        let dims = DataDims { n_words: words.len() as i64, n_answers: answers.len() as i64, feature_dim };
        let model = Baseline::new(vs.root(), &config.model, dims);
        load_weights(&vs, checkpoint)?;
        let batch_size = args.batch_size.map_or(config.train.batch_size, |size| size as usize);
        let options = LoaderOptions { batch_size, sampler: Sampler::Sequential, ..LoaderOptions::default() };
        Ok(Asked {
            checkpoint: checkpoint.clone(),
            config,
            answers,
            device,
            model,
            _vs: vs,
            loader: Loader::new(Arc::new(dataset), options),
            sources: split.composition,
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

    /// "RUN_model_13", after the run's directory and the checkpoint.
    pub fn name(&self) -> String {
        let stem = self.checkpoint.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let run = std::path::absolute(&self.checkpoint).ok();
        match run.as_deref().and_then(Path::parent).and_then(Path::file_name) {
            Some(run) => format!("{}_{stem}", run.to_string_lossy()),
            None => stem,
        }
    }

    /// Answers the whole split.
    pub fn answer_all(&self) -> Result<Answers> {
        let progress = Progress::new("answer", "questions", self.dataset().len() as u64);
        Ok(answer_all(&self.model, &self.loader, &self.answers, self.device, &mut |n| progress.add(n))?)
    }

    /// Answers the questions at these places of the split and adds them to a report.
    pub fn explain(&self, questions: &[usize], report: &mut Report) -> Result<()> {
        let progress = Progress::new("draw", "questions", questions.len() as u64);
        for questions in questions.chunks(self.batch_size()) {
            let batch = Batch::gather(self.dataset(), questions)?;
            let predictions = predict_batch(&self.model, self.config.model.loss, &batch, self.device);
            for (i, prediction) in predictions.into_iter().enumerate() {
                let text = |answer: i64| self.answers.answers()[answer as usize].clone();
                let split = self.dataset().split();
                let place = batch.questions[i];
                let annotation = split.annotations.get(place);
                report.add(&Explained {
                    question_id: batch.question_ids[i],
                    question: split.questions[place].question.clone(),
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
        let template = source.images.as_ref().context(
            "the config does not say where the pictures are: add images = \"…/{image_id:012}.jpg\" to the split's composition, and give that config with --config",
        )?;
        Ok(image_path(template, image_id)?)
    }
}
