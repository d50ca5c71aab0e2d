//! The questions and regions that attention compares, and what both kinds of scores share.

use tch::Tensor;

use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::question_images::QuestionImages;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::model::DropoutSeed;

/// Maps [N, K, in_dim] to [N, K, out_dim] with a function of the flattened regions, [N K, in_dim].
pub(super) fn per_region(features: &Tensor, of_regions: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    let [n, k, d] = features.size()[..] else { panic!("features are [N, K, D]") };
    of_regions(&features.view([n * k, d])).view([n, k, -1])
}

/// What scores are computed from: the regions of N images, and L distinct texts.
pub(super) struct AttentionInputs<'i> {
    pub(super) images: &'i QuestionImages,
    pub(super) features: &'i Tensor, // [N, K, D]
    pub(super) texts: &'i DistinctTexts,
    pub(super) question: &'i Tensor, // [L, H], the texts' hidden states
}

impl AttentionInputs<'_> {
    /// Draws dropout masks for vectors of length `dim`, one for each pair: [B K, dim]. `None` if there is no dropout.
    pub(super) fn masks(&self, seed: Option<DropoutSeed>, dim: usize, dropout: f64) -> Option<DropoutMasks> {
        let seed = seed.filter(|_| dropout > 0.0)?;
        Some(DropoutMasks::draw(seed, self.images.n_pairs(), self.images.n_regions(), dim, dropout))
    }
}

/// The factor by which dropout scales what it keeps. It goes into the weights of the last layer, not into each vector.
pub(super) fn scale(masks: Option<&DropoutMasks>) -> f64 {
    masks.map_or(1.0, |masks| f64::from(masks.scale))
}
