//! Several trained models whose outputs are averaged.

use std::iter;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use vqa_data::batches::Dataset;
use vqa_data::questions::{AnswerDict, WordDict};
use vqa_model::loss::LossKind;
use vqa_model::{ModelInput, ModelOutput, VqaModel};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// One or more checkpoints that answer together: the logits and the attention of an ensemble are the means over its
/// members. All members have the same dictionaries, maximum question length, features and loss, and are on the same
/// device.
#[derive(Debug)]
pub struct Ensemble {
    first: Checkpoint,
    others: Vec<Checkpoint>,
}

impl From<Checkpoint> for Ensemble {
    fn from(only: Checkpoint) -> Ensemble {
        Ensemble { first: only, others: Vec::new() }
    }
}

impl Ensemble {
    /// Loads checkpoints of the article's model, as [`Checkpoint::open`] does, all onto the device of the first.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::open`] and of [`Ensemble::add`].
    pub fn open(first: &Path, others: &[PathBuf], device: Option<Device>) -> Result<Ensemble> {
        let mut ensemble = Ensemble::from(Checkpoint::open(first, device)?);
        let device = ensemble.device();
        for other in others {
            ensemble.add(Checkpoint::open(other, Some(device))?)?;
        }
        Ok(ensemble)
    }

    /// Adds a member.
    ///
    /// # Errors
    ///
    /// When it differs from the others in something that all members must share; the message says in what.
    pub fn add(&mut self, member: Checkpoint) -> Result<()> {
        if let Some(difference) = difference(&member, &self.first) {
            return Err(Error::Mismatch {
                path: member.path().to_owned(),
                problem: format!("it cannot answer together with {}: {difference}", self.first.path().display()),
            });
        }
        self.others.push(member);
        Ok(())
    }

    /// The first member, whose run's config provides the splits, the seed and the batch size.
    pub fn first(&self) -> &Checkpoint {
        &self.first
    }

    /// All members, the first one first.
    pub fn members(&self) -> impl Iterator<Item = &Checkpoint> {
        iter::once(&self.first).chain(&self.others)
    }

    /// The loss of the members, which determines how logits become probabilities.
    pub fn loss(&self) -> LossKind {
        self.first.loss()
    }

    /// The device that the members are on.
    pub fn device(&self) -> Device {
        self.first.device()
    }

    /// The number type for the features: the members' own if they all use the same, and float32 otherwise.
    pub fn kind(&self) -> Kind {
        let kind = self.first.kind();
        if self.others.iter().all(|other| other.kind() == kind) { kind } else { Kind::Float }
    }

    /// The dictionary of words.
    pub fn words(&self) -> &WordDict {
        self.first.words()
    }

    /// The dictionary of answers.
    pub fn answers(&self) -> &AnswerDict {
        self.first.answers()
    }

    /// The number of words that questions are truncated to.
    pub fn max_question_len(&self) -> usize {
        self.first.max_question_len()
    }

    /// Checks that every member can answer this dataset.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::check`].
    pub fn check(&self, dataset: &Dataset) -> Result<()> {
        self.members().try_for_each(|member| member.check(dataset))
    }

    /// Each member as a model that takes the ensemble's batches.
    pub(crate) fn each_alone(&self) -> impl Iterator<Item = Member<'_>> {
        self.members().map(Member)
    }

    /// The mean of `run`'s output over the members.
    fn mean(&self, input: &ModelInput, run: impl Fn(&Member, &ModelInput) -> ModelOutput) -> ModelOutput {
        let of_member = |member| run(&Member(member), input);
        if self.others.is_empty() {
            return of_member(&self.first);
        }
        // In float64, where the mean of equal float32 values is exactly that value.
        let n = 1 + self.others.len();
        let mean = |sum: Tensor| (sum / n as f64).to_kind(Kind::Float);
        let ModelOutput { logits, attention } = of_member(&self.first);
        let (mut logits, mut attention) = (logits.to_kind(Kind::Double), attention.to_kind(Kind::Double));
        for other in &self.others {
            let of_other = of_member(other);
            logits += of_other.logits;
            attention += of_other.attention;
        }
        ModelOutput { logits: mean(logits), attention: mean(attention) }
    }
}

impl VqaModel for Ensemble {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        self.mean(input, |model, input| model.forward(input, train))
    }

    fn infer(&self, input: &ModelInput) -> ModelOutput {
        self.mean(input, |model, input| model.infer(input))
    }
}

/// A member as a model of its own, run in the arithmetic that it was trained in, whatever the number type of the
/// features.
pub(crate) struct Member<'a>(&'a Checkpoint);

impl Member<'_> {
    fn run(&self, input: &ModelInput, run: impl Fn(&dyn VqaModel, &ModelInput) -> ModelOutput) -> ModelOutput {
        let Member(member) = self;
        member.set_arithmetic();
        match input.features.kind() == member.kind() {
            true => run(member.model(), input),
            false => run(member.model(), &in_kind(input, member.kind())),
        }
    }
}

impl VqaModel for Member<'_> {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        self.run(input, |model, input| model.forward(input, train))
    }

    fn infer(&self, input: &ModelInput) -> ModelOutput {
        self.run(input, |model, input| model.infer(input))
    }
}

/// The same batch with its features converted to another number type.
fn in_kind(input: &ModelInput, kind: Kind) -> ModelInput {
    ModelInput {
        tokens: input.tokens.shallow_clone(),
        features: input.features.to_kind(kind),
        boxes: input.boxes.shallow_clone(),
        image_rows: input.image_rows.shallow_clone(),
        padding: input.padding.as_ref().map(Tensor::shallow_clone),
        dropout: None,
        order: None,
    }
}

/// The first difference that keeps two checkpoints from forming an ensemble, if there is one.
fn difference(here: &Checkpoint, there: &Checkpoint) -> Option<String> {
    let extractor = || {
        let [here, there] = [here, there].map(|checkpoint| checkpoint.header().extractor.as_ref());
        let difference = here?.difference(there?)?;
        Some(format!(
            "features from different extractors (what differs: {difference}): {} here, {} there",
            here?, there?
        ))
    };
    let value = |key: &str, value: fn(&Checkpoint) -> String| {
        let [here, there] = [here, there].map(value);
        (here != there).then(|| format!("{key} = {here} here, {there} there"))
    };
    entries("words", here.words().words().iter(), there.words().words().iter())
        .or_else(|| entries("answers", here.answers().answers().iter(), there.answers().answers().iter()))
        .or_else(|| value("dict.count_answers", |it| format!("{:?}", it.count_answers()).to_lowercase()))
        .or_else(|| value("dict.max_question_len", |it| it.max_question_len().to_string()))
        .or_else(|| value("values per region", |it| it.header().dims.feature_dim.to_string()))
        .or_else(extractor)
        .or_else(|| value("model.loss", |it| format!("{:?}", it.loss()).to_lowercase()))
}

/// The first difference between the entries of two dictionaries, if there is one.
fn entries<'a>(
    what: &str,
    mut here: impl ExactSizeIterator<Item = &'a String>,
    mut there: impl ExactSizeIterator<Item = &'a String>,
) -> Option<String> {
    if here.len() != there.len() {
        return Some(format!("{} {what} in its dictionary here, {} there", here.len(), there.len()));
    }
    let (here, there) = here.by_ref().zip(there.by_ref()).find(|(here, there)| here != there)?;
    Some(format!("different {what} in its dictionary, such as \"{here}\" here and \"{there}\" there"))
}
