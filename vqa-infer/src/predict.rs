//! Answers of a trained model.

use tch::{Device, Kind, Tensor};
use vqa_data::batches::Batch;
use vqa_data::evaluator::Accuracy;
use vqa_data::questions::{Annotations, Answer, AnswerDict};
use vqa_model::feed::Feed;
use vqa_model::loss::LossKind;
use vqa_model::{ModelInput, VqaModel};

use crate::error::Result;

/// What a model answers to one question, and where it looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The id of the best answer.
    pub answer: i64,
    /// The best few answers with their probabilities, best first.
    pub best: Vec<(i64, f32)>,
    /// The weight of each region of the image, adding up to 1.
    pub attention: Vec<f32>,
}

/// How many answers [`Prediction::best`] has at most.
const N_BEST: i64 = 3;

/// Answers the questions of a batch, in order. The probability of an answer is that of `loss`: of each
/// answer by itself (logistic), or among all of them (softmax). The model computes in the number type `kind`.
pub fn predict_batch(
    model: &dyn VqaModel,
    loss: LossKind,
    batch: &Batch,
    device: Device,
    kind: Kind,
) -> Vec<Prediction> {
    let input = ModelInput::from_batch(batch, device, kind);
    let output = model.infer(&input);
    let probabilities = match loss {
        LossKind::Logistic => output.logits.sigmoid(),
        LossKind::Softmax => output.logits.softmax(1, Kind::Float),
    };
    let n_best = N_BEST.min(output.logits.size()[1]);
    let (best, ids) = probabilities.topk(n_best, 1, true, true);
    let (best, ids) = (to_vec::<f32>(&best), to_vec::<i64>(&ids));
    let answers = output.best_answers();
    let attention = to_vec::<f32>(&output.attention);
    (0..batch.len())
        .map(|i| {
            let row = |n: usize| i * n..(i + 1) * n;
            let n_best = n_best as usize;
            let n_regions = batch.n_regions[batch.image_rows[i] as usize];
            Prediction {
                answer: answers[i],
                best: ids[row(n_best)].iter().copied().zip(best[row(n_best)].iter().copied()).collect(),
                attention: attention[row(batch.max_regions)][..n_regions].to_vec(),
            }
        })
        .collect()
}

fn to_vec<T: tch::kind::Element>(tensor: &Tensor) -> Vec<T>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    Vec::<T>::try_from(tensor.contiguous().view([-1])).expect("a flat tensor of this kind")
}

/// A model's answers to a whole split.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// One for each question, in order of the dataset, whatever the loader's.
    pub answers: Vec<Answer>,
    /// Mean soft score in percent; 0 for a split without annotations.
    pub soft_score: f64,
    /// The soft score of a model that is always right, in percent.
    pub upper_bound: f64,
}

impl Answers {
    /// The official accuracy, one answer for each of the split's annotations, in order.
    ///
    /// # Panics
    ///
    /// When the split has no annotations.
    pub fn accuracy(&self, annotations: &Annotations) -> Accuracy {
        let answers: Vec<&str> = self.answers.iter().map(|answer| &*answer.answer).collect();
        Accuracy::of_each(&answers, annotations)
    }
}

/// Answers all questions of a feed. `progress` is called with the number of questions just done.
///
/// # Errors
///
/// When the features cannot be read.
pub fn answer_all(
    model: &dyn VqaModel,
    feed: &Feed,
    dictionary: &AnswerDict,
    progress: &mut dyn FnMut(u64),
) -> Result<Answers> {
    let dataset = feed.loader().dataset();
    let mut answers = vec![0; dataset.len()];
    let (mut score, mut upper_bound) = (0.0, 0.0);
    for batch in feed.epoch(0, 0) {
        for mut part in batch??.parts {
            let (input, _) = feed.tensors(&mut part);
            let best = model.infer(&input).best_answers();
            let batch = &part.batch;
            score += batch.targets.total_score(&best);
            upper_bound += batch.targets.total_best();
            for (&question, answer) in batch.questions.iter().zip(best) {
                answers[question] = answer;
            }
            progress(batch.len() as u64);
        }
    }
    let n = answers.len().max(1) as f64;
    let text = |answer: i64| dictionary.answers()[answer as usize].as_str().into();
    let questions = dataset.split().questions.iter().zip(answers);
    let answers =
        questions.map(|(question, answer)| Answer { question_id: question.question_id, answer: text(answer) });
    Ok(Answers { answers: answers.collect(), soft_score: 100.0 * score / n, upper_bound: 100.0 * upper_bound / n })
}
