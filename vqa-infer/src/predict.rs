//! Predictions of a trained model for batches and for full splits.

use tch::{Device, Kind, Tensor};
use vqa_data::batches::Batch;
use vqa_data::evaluator::Accuracy;
use vqa_data::questions::{Annotations, Answer, AnswerDict};
use vqa_model::feed::Feed;
use vqa_model::loss::LossKind;
use vqa_model::{ModelInput, ModelOutput, VqaModel};

use crate::calibration::Calibration;
use crate::error::Result;

/// A model's answer to one question, and where it looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The id of the best answer.
    pub answer: i64,
    /// The best few answers with their probabilities, best first.
    pub best: Vec<(i64, f32)>,
    /// The weight of each region of the image, adding up to 1.
    pub attention: Vec<f32>,
}

/// The maximum number of answers in [`Prediction::best`].
pub(crate) const N_BEST: usize = 5;

/// Answers the questions of a batch, in order. `loss` determines the probabilities: of each answer on its own
/// (logistic), or over all answers (softmax). The model computes in the number type `kind`.
pub fn predict_batch(
    model: &dyn VqaModel,
    loss: LossKind,
    batch: &Batch,
    device: Device,
    kind: Kind,
) -> Vec<Prediction> {
    let input = ModelInput::from_batch(batch, device, kind);
    let n_regions = |question: usize| batch.n_regions[batch.image_rows[question] as usize];
    predictions(&model.infer(&input), loss, n_regions, N_BEST)
}

/// Converts a model's output to one prediction for each question, in order, with the best `n_best` answers. `n_regions`
/// returns the number of regions in a question's image.
pub(crate) fn predictions(
    output: &ModelOutput,
    loss: LossKind,
    n_regions: impl Fn(usize) -> usize,
    n_best: usize,
) -> Vec<Prediction> {
    let answers = output.best_answers();
    let (n, max_regions) = (answers.len(), output.attention.size()[1] as usize);
    let best = best_answers(&output.logits, loss, n_best);
    let attention = to_vec::<f32>(&output.attention);
    let prediction = |i: usize| Prediction {
        answer: answers[i],
        best: best[i * best.len() / n..(i + 1) * best.len() / n].to_vec(),
        attention: attention[i * max_regions..][..n_regions(i)].to_vec(),
    };
    (0..n).map(prediction).collect()
}

/// The ids and probabilities of the best `n_best` answers to each question, or of all if there are fewer; best first,
/// one question after another.
fn best_answers(logits: &Tensor, loss: LossKind, n_best: usize) -> Vec<(i64, f32)> {
    let n_best = n_best.min(logits.size()[1] as usize);
    let probabilities = probabilities(logits, loss);
    // Ranked by logit, since several large logits may all round to a probability of 1.
    let (logits, ids) = logits.topk(n_best as i64, 1, true, true);
    let probabilities = to_vec::<f32>(&probabilities.gather(1, &ids, false));
    let mut best: Vec<_> = to_vec::<i64>(&ids).into_iter().zip(to_vec::<f32>(&logits)).zip(probabilities).collect();
    // Ties go to the lower id, as in `best_answers` of the output.
    for row in best.chunks_mut(n_best.max(1)) {
        row.sort_by(|((id, logit), _), ((other_id, other), _)| other.total_cmp(logit).then(id.cmp(other_id)));
    }
    best.into_iter().map(|((id, _), probability)| (id, probability)).collect()
}

/// The probabilities of all answers, [B, n_answers].
pub(crate) fn probabilities(logits: &Tensor, loss: LossKind) -> Tensor {
    match loss {
        LossKind::Logistic => logits.sigmoid(),
        LossKind::Softmax => logits.softmax(1, Kind::Float),
    }
}

pub(crate) fn to_vec<T: tch::kind::Element>(tensor: &Tensor) -> Vec<T>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    Vec::<T>::try_from(tensor.contiguous().view([-1])).expect("a flat tensor of this kind")
}

/// A model's answers to a full split.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// One for each question, in the dataset's order, whatever the loader's.
    pub answers: Vec<Answer>,
    /// The probability of each answer, 0 to 1.
    pub confidences: Vec<f32>,
    /// The soft score that each answer earns, 0 to 1; 0 without annotations.
    pub scores: Vec<f32>,
    /// Mean soft score in percent; 0 for a split without annotations.
    pub soft_score: f64,
    /// The soft score of a model that always gives the best-scoring candidate, in percent.
    pub upper_bound: f64,
}

impl Answers {
    /// The official accuracy of the answers. `annotations` must hold one for each answer, in order.
    ///
    /// # Panics
    ///
    /// When the split has no annotations.
    pub fn accuracy(&self, annotations: &Annotations) -> Accuracy {
        let answers: Vec<&str> = self.answers.iter().map(|answer| &*answer.answer).collect();
        Accuracy::of_each(&answers, annotations)
    }

    /// Compares the probabilities of the answers with the scores that they earn.
    pub fn calibration(&self) -> Calibration {
        Calibration::of(self.confidences.iter().copied().zip(self.scores.iter().copied()))
    }
}

/// The best few answers to each question of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedAnswers {
    /// How many answers each question has.
    n_best: usize,
    /// Ids and probabilities, question after question.
    best: Vec<(u32, f32)>,
}

impl RankedAnswers {
    /// The ids and probabilities of the best answers to a question, given by its index in the split; best first.
    pub fn of(&self, question: usize) -> &[(u32, f32)] {
        &self.best[question * self.n_best..][..self.n_best]
    }
}

/// Answers all questions of a feed, with probabilities according to `loss`, as in [`predict_batch`]. `progress` is
/// called with the number of questions just done.
///
/// # Errors
///
/// When the features cannot be read.
pub fn answer_all(
    model: &dyn VqaModel,
    loss: LossKind,
    feed: &Feed,
    dictionary: &AnswerDict,
    progress: &mut dyn FnMut(u64),
) -> Result<Answers> {
    answer_share(model, loss, feed, dictionary, progress, &|_| Ok(()))
}

/// Sums a tensor over several processes, in place in each of them.
pub(crate) type Sum<'a> = dyn Fn(&mut Tensor) -> Result<()> + 'a;

/// [`answer_all`], distributed over several processes, each of which answers its share of the feed's batches.
pub(crate) fn answer_share(
    model: &dyn VqaModel,
    loss: LossKind,
    feed: &Feed,
    dictionary: &AnswerDict,
    progress: &mut dyn FnMut(u64),
    sum: &Sum,
) -> Result<Answers> {
    let dataset = feed.loader().dataset();
    let mut answers = vec![0; dataset.len()];
    let (mut confidences, mut scores) = (vec![0.0; dataset.len()], vec![0.0; dataset.len()]);
    let (mut score, mut upper_bound) = (0.0, 0.0);
    infer_all(model, feed, progress, |batch, output| {
        let best = output.best_answers();
        let of_best = confidence(&output.logits, loss);
        let mut earned = 0.0;
        for (i, (&question, answer)) in batch.questions.iter().zip(best).enumerate() {
            answers[question] = answer;
            confidences[question] = of_best[i];
            scores[question] = batch.targets.score(i, answer as u32);
            earned += f64::from(scores[question]);
        }
        score += earned;
        upper_bound += batch.targets.total_best();
    })?;
    // Entries of other processes are 0 here, so each sum is exact.
    answers = summed(&answers, sum)?;
    (confidences, scores) = (summed(&confidences, sum)?, summed(&scores, sum)?);
    let [score, upper_bound] = summed(&[score, upper_bound], sum)?[..] else { unreachable!("two sums") };
    let n = answers.len().max(1) as f64;
    let text = |answer: i64| dictionary.answers()[answer as usize].as_str().into();
    let questions = dataset.split().questions.iter().zip(answers);
    let answers =
        questions.map(|(question, answer)| Answer { question_id: question.question_id, answer: text(answer) });
    Ok(Answers {
        answers: answers.collect(),
        confidences,
        scores,
        soft_score: 100.0 * score / n,
        upper_bound: 100.0 * upper_bound / n,
    })
}

/// The probability of the best answer to each question.
fn confidence(logits: &Tensor, loss: LossKind) -> Vec<f32> {
    let best = logits.amax([1], false);
    let probability = match loss {
        LossKind::Logistic => best.sigmoid(),
        LossKind::Softmax => (best - logits.logsumexp([1], false)).exp(),
    };
    to_vec(&probability.to_kind(Kind::Float))
}

/// Returns the best `n_best` answers to each question of a feed, or all if there are fewer candidates, with
/// probabilities according to `loss`, as in [`predict_batch`]. `progress` is called with the number of questions just
/// done.
///
/// # Errors
///
/// When the features cannot be read.
pub fn rank_all(
    model: &dyn VqaModel,
    loss: LossKind,
    feed: &Feed,
    n_best: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<RankedAnswers> {
    rank_share(model, loss, feed, n_best, progress, &|_| Ok(()))
}

/// [`rank_all`], distributed over several processes, each of which answers its share of the feed's batches.
pub(crate) fn rank_share(
    model: &dyn VqaModel,
    loss: LossKind,
    feed: &Feed,
    n_best: usize,
    progress: &mut dyn FnMut(u64),
    sum: &Sum,
) -> Result<RankedAnswers> {
    let dataset = feed.loader().dataset();
    let n_best = n_best.min(dataset.n_answers());
    let (mut ids, mut scores) = (vec![0i64; dataset.len() * n_best], vec![0f32; dataset.len() * n_best]);
    infer_all(model, feed, progress, |batch, output| {
        let of_batch = best_answers(&output.logits, loss, n_best);
        for (&question, of_question) in batch.questions.iter().zip(of_batch.chunks(n_best.max(1))) {
            for (place, &(id, score)) in (question * n_best..).zip(of_question) {
                (ids[place], scores[place]) = (id, score);
            }
        }
    })?;
    let (ids, scores) = (summed(&ids, sum)?, summed(&scores, sum)?);
    Ok(RankedAnswers { n_best, best: ids.into_iter().map(|id| id as u32).zip(scores).collect() })
}

fn summed<T: tch::kind::Element>(values: &[T], sum: &Sum) -> Result<Vec<T>>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    let mut tensor = Tensor::from_slice(values);
    sum(&mut tensor)?;
    Ok(to_vec(&tensor))
}

/// Runs a model on all questions of a feed, and calls `take` with each batch and its output.
fn infer_all(
    model: &dyn VqaModel,
    feed: &Feed,
    progress: &mut dyn FnMut(u64),
    mut take: impl FnMut(&Batch, &ModelOutput),
) -> Result<()> {
    for_each_batch(feed, progress, |batch, input| take(batch, &model.infer(&input)))
}

/// Calls `take` with each batch of a feed and its model input.
pub(crate) fn for_each_batch(
    feed: &Feed,
    progress: &mut dyn FnMut(u64),
    mut take: impl FnMut(&Batch, ModelInput),
) -> Result<()> {
    for batch in feed.epoch(0, 0) {
        for mut part in batch??.parts {
            let (input, _) = feed.tensors(&mut part);
            take(&part.batch, input);
            progress(part.batch.len() as u64);
        }
    }
    Ok(())
}
