//! The vectors of attention with one layer over [region; question], one for each pair of the two, [B, K, A]. They are
//! never stored: each is a ReLU and dropout of the sum of two rows, and is recomputed wherever it is needed.

use std::hint::black_box;

use multiversion::multiversion;
use tch::Tensor;

use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::question_images::Pair;
use crate::cpu::kernels::{LANES, kept, lane_bits, total};
use crate::cpu::slice::{Number, values};

/// Computes, for each pair, the ReLU of the sum of a region's share and a question's, with dropout.
pub(super) struct JointVectors<'a, T> {
    v_share: &'a [T],   // [N K, A]
    q_share: &'a [f32], // [B, A]
    masks: Option<&'a DropoutMasks>,
    all: Vec<u16>, // a mask that keeps everything
    pub(super) dim: usize,
}

/// The joint vector of one pair. Dropout's scale is left to the caller.
pub(super) struct JointVector<'a, T> {
    pub(super) mask: &'a [u16],
    pub(super) v_share: &'a [T],
    pub(super) q_share: &'a [f32],
}

impl<'a, T: Number> JointVectors<'a, T> {
    /// The joint vectors of the regions' shares, [N, K, A], and the questions', [B, A] float32.
    pub(super) fn new(
        v_share: &'a Tensor,
        q_share: &'a Tensor,
        masks: Option<&'a DropoutMasks>,
    ) -> JointVectors<'a, T> {
        let dim = q_share.size()[1] as usize;
        let all = vec![u16::MAX; dim.div_ceil(LANES)];
        JointVectors { v_share: values(v_share), q_share: values(q_share), masks, all, dim }
    }

    /// The vector of a pair.
    pub(super) fn of(&self, pair: Pair) -> JointVector<'_, T> {
        JointVector {
            mask: self.masks.map_or(&self.all[..], |masks| masks.row(pair.index)),
            v_share: &self.v_share[pair.region * self.dim..][..self.dim],
            q_share: &self.q_share[pair.question * self.dim..][..self.dim],
        }
    }
}

/// The dot product of a vector with a row of weights.
#[multiversion(targets = "simd")]
pub(super) fn dot<T: Number>(vector: JointVector<T>, weights: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (v, v_rest) = vector.v_share.as_chunks::<LANES>();
    let (q, q_rest) = vector.q_share.as_chunks::<LANES>();
    let (w, w_rest) = weights.as_chunks::<LANES>();
    let bits = lane_bits();
    for (((v, q), w), &mask) in v.iter().zip(q).zip(w).zip(vector.mask) {
        for lane in 0..LANES {
            sums[lane] += kept((v[lane].to_f32() + q[lane]).max(0.0) * w[lane], mask, bits[lane]);
        }
    }
    let mut sum = total(black_box(sums));
    if let Some(&mask) = vector.mask.get(v.len()) {
        for (lane, ((v, q), w)) in v_rest.iter().zip(q_rest).zip(w_rest).enumerate() {
            sum += if mask >> lane & 1 != 0 { (v.to_f32() + q).max(0.0) * w } else { 0.0 };
        }
    }
    sum
}

/// Adds to `sum` the gradient of either share: `factor` times the weights, where ReLU and dropout let it through.
#[multiversion(targets = "simd")]
pub(super) fn add_share_grad<T: Number>(sum: &mut [f32], factor: f32, weights: &[f32], vector: JointVector<T>) {
    let (sum, sum_rest) = sum.as_chunks_mut::<LANES>();
    let (v, v_rest) = vector.v_share.as_chunks::<LANES>();
    let (q, q_rest) = vector.q_share.as_chunks::<LANES>();
    let (w, w_rest) = weights.as_chunks::<LANES>();
    let (n_chunks, bits) = (v.len(), lane_bits());
    for ((((sum, v), q), w), &mask) in sum.iter_mut().zip(v).zip(q).zip(w).zip(vector.mask) {
        let mask = black_box(mask);
        for lane in 0..LANES {
            let passes = f32::from(v[lane].to_f32() + q[lane] > 0.0);
            sum[lane] += kept(factor * w[lane] * passes, mask, bits[lane]);
        }
    }
    if let Some(&mask) = vector.mask.get(n_chunks) {
        for (lane, (((sum, v), q), w)) in sum_rest.iter_mut().zip(v_rest).zip(q_rest).zip(w_rest).enumerate() {
            let passes = mask >> lane & 1 != 0 && v.to_f32() + q > 0.0;
            *sum += if passes { factor * w } else { 0.0 };
        }
    }
}

/// Adds `factor` times a vector to `sum`, and adds `factor` itself to `passed` where ReLU and dropout let the vector
/// through. `passed` times the weights is the gradient of either share.
#[multiversion(targets = "simd")]
pub(super) fn add_scaled<T: Number>(sum: &mut [f32], passed: &mut [f32], factor: f32, vector: JointVector<T>) {
    let (sum, sum_rest) = sum.as_chunks_mut::<LANES>();
    let (passed, passed_rest) = passed.as_chunks_mut::<LANES>();
    let (v, v_rest) = vector.v_share.as_chunks::<LANES>();
    let (q, q_rest) = vector.q_share.as_chunks::<LANES>();
    let (n_chunks, bits) = (v.len(), lane_bits());
    for ((((sum, passed), v), q), &mask) in sum.iter_mut().zip(passed).zip(v).zip(q).zip(vector.mask) {
        for lane in 0..LANES {
            let x = v[lane].to_f32() + q[lane];
            let factor = kept(factor * f32::from(x > 0.0), mask, bits[lane]);
            passed[lane] += factor;
            sum[lane] += factor * x;
        }
    }
    if let Some(&mask) = vector.mask.get(n_chunks) {
        for (lane, (((sum, passed), v), q)) in sum_rest.iter_mut().zip(passed_rest).zip(v_rest).zip(q_rest).enumerate()
        {
            let x = v.to_f32() + q;
            let kept = if mask >> lane & 1 != 0 && x > 0.0 { factor } else { 0.0 };
            *passed += kept;
            *sum += kept * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::kernels::draw_mask;

    proptest! {
        #[test]
        fn loops_do_what_their_names_say(v in prop::collection::vec(-2f32..2.0, 0..100), key: u64) {
            let n = v.len();
            let mut mask = vec![0; n.div_ceil(LANES)];
            draw_mask(key, 40_000, &mut mask);
            let q: Vec<f32> = (0..n).map(|i| (i % 5) as f32 / 2.0 - 1.0).collect();
            let weights: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let vector = || JointVector { mask: &mask, v_share: &v, q_share: &q };
            let passes = |i: usize| mask[i / LANES] >> (i % LANES) & 1 != 0 && v[i] + q[i] > 0.0;

            let expected: f32 = (0..n).filter(|&i| passes(i)).map(|i| (v[i] + q[i]) * weights[i]).sum();
            prop_assert!((dot(vector(), &weights) - expected).abs() < 1e-4);
            let (mut grad, mut sum, mut passed) = (vec![1.0; n], vec![1.0; n], vec![1.0; n]);
            add_share_grad(&mut grad, 0.5, &weights, vector());
            add_scaled(&mut sum, &mut passed, 0.5, vector());
            for i in 0..n {
                prop_assert_eq!(grad[i], if passes(i) { 1.0 + 0.5 * weights[i] } else { 1.0 });
                prop_assert_eq!(sum[i], if passes(i) { 1.0 + 0.5 * (v[i] + q[i]) } else { 1.0 });
                prop_assert_eq!(passed[i], if passes(i) { 1.5 } else { 1.0 });
            }
        }
    }
}
