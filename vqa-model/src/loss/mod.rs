//! The losses, computed from the logits and the soft targets of a batch.

pub(crate) mod batch_loss;
pub(crate) mod on_gpu;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Reduction, Tensor};
use vqa_data::batches::FullBatch;
use vqa_data::questions::SoftTargets;

pub use self::batch_loss::BatchLoss;
use crate::cpu::bce;
use crate::loss::on_gpu::OnGpu;

/// What the logits mean, and so which loss trains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossKind {
    /// Each answer is right or wrong by itself: binary cross-entropy against the soft scores.
    #[default]
    Logistic,
    /// One answer is right: softmax cross-entropy.
    Softmax,
}

/// Soft targets as a dense tensor, [B, n_answers].
pub fn dense_targets(targets: &SoftTargets, n_answers: i64, device: Device) -> Tensor {
    SparseTargets::new(targets, device).dense(n_answers)
}

/// The soft targets of B questions on a device, as the P pairs of a question and a candidate that has a score.
#[derive(Debug)]
pub struct SparseTargets {
    pub(crate) n_questions: i64,
    /// `[P]` the question's index in the batch.
    pub(crate) questions: Tensor,
    /// `[P]` the id of the candidate.
    pub(crate) answers: Tensor,
    /// `[P]` float32, its soft score.
    pub(crate) scores: Tensor,
    /// What the kernels for the loss need, if there are any.
    pub(crate) on_gpu: Option<OnGpu>,
}

/// Returns the questions, answers and scores of [`SparseTargets`].
pub(crate) fn target_lists(targets: &SoftTargets) -> (Vec<i64>, Vec<i64>, Vec<f32>) {
    let (mut questions, mut answers, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..targets.len() {
        for (answer, score) in targets.of(i) {
            questions.push(i as i64);
            answers.push(i64::from(answer));
            scores.push(score);
        }
    }
    (questions, answers, scores)
}

impl SparseTargets {
    /// Copies soft targets to a device.
    pub fn new(targets: &SoftTargets, device: Device) -> SparseTargets {
        let (questions, answers, scores) = target_lists(targets);
        SparseTargets {
            n_questions: targets.len() as i64,
            questions: Tensor::from_slice(&questions).to_device(device),
            answers: Tensor::from_slice(&answers).to_device(device),
            scores: Tensor::from_slice(&scores).to_device(device),
            on_gpu: None,
        }
    }

    /// Returns the targets as a dense tensor, [B, n_answers].
    pub fn dense(&self, n_answers: i64) -> Tensor {
        let mut dense = Tensor::zeros([self.n_questions * n_answers], (Kind::Float, self.scores.device()));
        let indices = &self.questions * n_answers + &self.answers; // [P]
        // Added rather than set, so that padding with score 0 changes nothing, wherever it points.
        dense.scatter_add_(0, &indices, &self.scores).view([self.n_questions, n_answers])
    }

    /// Computes the configured loss of logits [B, n_answers], its gradient, and the score.
    pub fn loss(&self, kind: LossKind, logits: &Tensor) -> BatchLoss {
        if let (Some(OnGpu { kernels, starts }), LossKind::Logistic) = (&self.on_gpu, kind) {
            return kernels.logistic(logits, [&self.answers, &self.scores], starts);
        }
        let (mean, grad_logits) = loss_and_gradient(kind, logits, &self.dense(logits.size()[1]));
        BatchLoss { mean, grad_logits, total_score: self.total_score(logits) }
    }

    /// Returns the sum of the soft scores of each question's best answer according to logits [B, n_answers]. It is a
    /// float64, in which the sum of a batch is exact.
    pub fn total_score(&self, logits: &Tensor) -> Tensor {
        let best = logits.argmax(1, false).index_select(0, &self.questions); // [P]
        (&self.scores * best.eq_tensor(&self.answers)).sum(Kind::Double)
    }
}

/// [`n_in_mean`] of the full batch that a batch was cut from.
pub fn n_in_whole_mean(kind: LossKind, batch: &FullBatch) -> usize {
    match kind {
        LossKind::Logistic => batch.n_questions,
        LossKind::Softmax => batch.n_with_candidate,
    }
}

/// How many questions the mean of a loss is over: all of them, or with [`LossKind::Softmax`] those that have a label.
/// It is the weight of a batch's mean in the mean over several batches.
pub fn n_in_mean(kind: LossKind, targets: &SoftTargets) -> usize {
    match kind {
        LossKind::Logistic => targets.len(),
        LossKind::Softmax => (0..targets.len()).filter(|&i| targets.best(i) > 0.0).count(),
    }
}

/// The configured loss of logits [B, n_answers] against soft targets [B, n_answers], a scalar.
pub fn loss(kind: LossKind, logits: &Tensor, targets: &Tensor) -> Tensor {
    match kind {
        LossKind::Logistic => bce_with_logits(logits, targets),
        LossKind::Softmax => sce_with_logits(logits, targets),
    }
}

/// The configured loss and its gradient with respect to the logits, [B, n_answers].
pub fn loss_and_gradient(kind: LossKind, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
    let are_floats =
        [logits, targets].iter().all(|values| (values.device(), values.kind()) == (Device::Cpu, Kind::Float));
    if kind == LossKind::Logistic && are_floats {
        return bce::bce_with_logits(logits, targets);
    }
    let logits = logits.detach().set_requires_grad(true);
    let loss = loss(kind, &logits, targets);
    loss.backward();
    (loss.detach(), logits.grad())
}

/// Binary cross-entropy of each answer against its soft score, summed over the answers and averaged over the
/// questions. This is PyTorch's mean over everything times the number of answers, as in the seed's code.
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor) -> Tensor {
    let n_answers = targets.size()[1] as f64;
    logits.binary_cross_entropy_with_logits(targets, None::<&Tensor>, None, Reduction::Mean) * n_answers
}

/// Softmax cross-entropy against the soft scores normalised to sum to 1, averaged over the questions that have any,
/// times the number of answers.
///
/// For a question with one label this is the loss of the seed's code, whatever the label's score. That code fails on
/// questions with several labels or none. Here several labels share the question in proportion to their scores, and
/// a question without labels adds no loss and is left out of the average. If no question has labels, the loss is 0.
pub fn sce_with_logits(logits: &Tensor, targets: &Tensor) -> Tensor {
    let n_answers = targets.size()[1] as f64;
    let totals = targets.sum_dim_intlist(1, true, Kind::Float); // [B, 1]
    let distribution = targets / totals.clamp_min(1e-6);
    let n_labelled = totals.gt(0.0).sum(Kind::Float).clamp_min(1.0);
    -(distribution * logits.log_softmax(1, Kind::Float)).sum(Kind::Float) / n_labelled * n_answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::on_gpu::LossKernels;

    /// Means of batches, weighted by [`n_in_mean`], give the mean of everything, however the questions are split.
    #[test]
    fn weighted_means_are_the_mean_of_all() {
        tch::manual_seed(1);
        let logits = Tensor::randn([6, 4], (Kind::Float, Device::Cpu));
        // Half of the questions have no label.
        let rows = [vec![(1, 0.6), (2, 1.0)], vec![], vec![], vec![(0, 0.3)], vec![(3, 0.9)], vec![]];
        let of_rows = |rows: &[Vec<(u32, f32)>]| {
            let mut targets = SoftTargets::default();
            rows.iter().for_each(|row| targets.push(row.iter().copied()));
            targets
        };
        for kind in [LossKind::Logistic, LossKind::Softmax] {
            let mean = |first: usize, end: usize| {
                let targets = of_rows(&rows[first..end]);
                let logits = logits.narrow(0, first as i64, (end - first) as i64);
                let loss = loss(kind, &logits, &dense_targets(&targets, 4, Device::Cpu)).double_value(&[]);
                (loss, n_in_mean(kind, &targets) as f64)
            };
            let (all, _) = mean(0, 6);
            for cut in 1..6 {
                let [(a, n), (b, m)] = [mean(0, cut), mean(cut, 6)];
                assert!(((a * n + b * m) / (n + m) - all).abs() < 1e-5 * all, "{kind:?} {cut}");
            }
        }
    }

    /// Loss, gradient and score are libtorch's, for large logits and with padding at the end of the targets.
    #[test]
    fn on_a_gpu_it_is_libtorchs_loss() {
        let mut soft_targets = SoftTargets::default();
        for target in [vec![(4, 0.3), (700, 1.0)], vec![], vec![(0, 0.6), (1, 0.9)], vec![(998, 1.0)]] {
            soft_targets.push(target);
        }
        let mut targets = SparseTargets::new(&soft_targets, Device::Cpu);
        let pad = |tensor: &Tensor| Tensor::cat(&[tensor, &tensor.zeros_like().narrow(0, 0, 2)], 0);
        (targets.questions, targets.answers, targets.scores) =
            (pad(&targets.questions), pad(&targets.answers), pad(&targets.scores));
        let logits = Tensor::randn([4, 999], (Kind::Float, Device::Cpu)) * 4.0;
        for (question, answer, value) in [(0, 700, 90.0), (1, 5, -95.0), (2, 1, 30.0), (3, 998, 50.0)] {
            let _ = logits.get(question).get(answer).fill_(value);
        }
        let expected = targets.loss(LossKind::Logistic, &logits);
        let starts = Tensor::from_slice(&[0i32, 2, 2, 4, 5]);
        targets.on_gpu = Some(OnGpu { kernels: LossKernels::emulated(), starts });
        let found = targets.loss(LossKind::Logistic, &logits);
        let value = |tensor: &Tensor| tensor.double_value(&[]);
        assert!((value(&found.mean) / value(&expected.mean) - 1.0).abs() < 1e-6);
        assert!((&found.grad_logits - &expected.grad_logits).abs().max().double_value(&[]) < 1e-7);
        assert_eq!(value(&found.total_score), value(&expected.total_score));
        assert!(value(&found.total_score) > 2.5);
        // A NaN shows in the loss.
        let _ = logits.get(1).get(3).fill_(f64::NAN);
        assert!(value(&targets.loss(LossKind::Logistic, &logits).mean).is_nan());
    }
}
