//! What a loss says of a batch.

use tch::Tensor;

/// What the logits of a batch amount to.
#[derive(Debug)]
pub struct BatchLoss {
    /// A scalar, the mean loss over its questions.
    pub mean: Tensor,
    /// [B, n_answers] float32, the gradient of the mean loss by the logits.
    pub grad_logits: Tensor,
    /// A scalar, float64: the sum of the soft scores of each question's best answer, which is exact.
    pub total_score: Tensor,
}
