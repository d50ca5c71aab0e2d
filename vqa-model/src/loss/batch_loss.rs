//! The result of a loss on a batch.

use tch::Tensor;

/// The loss of a batch's logits, its gradient, and the score.
#[derive(Debug)]
pub struct BatchLoss {
    /// A scalar, the mean loss over its questions.
    pub mean: Tensor,
    /// [B, n_answers] float32, the gradient of the mean loss with respect to the logits.
    pub grad_logits: Tensor,
    /// A scalar, float64: the exact sum of the soft scores of each question's best answer.
    pub total_score: Tensor,
}
