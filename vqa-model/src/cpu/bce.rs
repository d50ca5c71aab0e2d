//! Binary cross-entropy of logits and its gradient, in a single pass over memory. libtorch makes a dozen.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use multiversion::multiversion;
use tch::Tensor;

use crate::cpu::kernels;
use crate::cpu::kernels::{LANES, exp, total};
use crate::cpu::slice::{from_rows, values};

/// Returns the binary cross-entropy of logits against targets, both [B, n] float32 on a CPU, and its gradient with
/// respect to the logits, [B, n]. The loss is a scalar: summed over n, averaged over B.
pub(crate) fn bce_with_logits(logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
    let [b, n] = logits.size()[..] else { panic!("logits are [B, n]") };
    assert_eq!(targets.size(), [b, n], "a target for each logit");
    let (logits, targets) = (logits.detach().contiguous(), targets.detach().contiguous());
    let (logits, targets, len) = (values::<f32>(&logits), values::<f32>(&targets), n as usize);
    // One per row, so that the sum doesn't depend on which thread is faster.
    let losses: Vec<AtomicU32> = (0..b).map(|_| AtomicU32::new(0)).collect();
    let gradient = from_rows::<f32>(&[b, n], len.max(1), |i, into| {
        let (mut loss, mut gradient) = (vec![0f32; len], vec![0f32; len]);
        row(&logits[i * len..][..len], &targets[i * len..][..len], &mut loss, &mut gradient);
        losses[i].store(sum(&loss).to_bits(), Ordering::Relaxed);
        kernels::write_scaled(into, 1.0 / b as f32, &gradient)
    });
    let loss: f64 = losses.into_iter().map(|loss| f64::from(f32::from_bits(loss.into_inner()))).sum();
    (Tensor::from((loss / b as f64) as f32), gradient)
}

/// Writes the loss of each logit, and its gradient.
#[multiversion(targets = "simd")]
fn row(logits: &[f32], targets: &[f32], loss: &mut [f32], gradient: &mut [f32]) {
    for (((&x, &t), loss), gradient) in logits.iter().zip(targets).zip(loss).zip(gradient) {
        // With e = exp(-|x|), nothing overflows: the loss is max(x, 0) - x t + log(1 + e), and its gradient is
        // sigmoid(x) - t, where the sigmoid is 1 / (1 + e), or e / (1 + e) if x is negative.
        let e = exp(-x.abs());
        let (top, positive) = if x < 0.0 { (e, 0.0) } else { (1.0, x) };
        *loss = positive - x * t + log_1p(e);
        *gradient = top / (1.0 + e) - t;
    }
}

/// log(1 + x) for an x from 0 to 1, with a relative error below 3e-7, as 2 artanh(x / (2 + x)), whose series converges
/// fast there.
#[inline(always)]
fn log_1p(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let s2 = s * s;
    let p = 1.0 / 13.0;
    let p = p * s2 + 1.0 / 11.0;
    let p = p * s2 + 1.0 / 9.0;
    let p = p * s2 + 1.0 / 7.0;
    let p = p * s2 + 1.0 / 5.0;
    let p = p * s2 + 1.0 / 3.0;
    let p = p * s2 + 1.0;
    2.0 * s * p
}

#[multiversion(targets = "simd")]
fn sum(row: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (row, rest) = row.as_chunks::<LANES>();
    for row in row {
        for lane in 0..LANES {
            sums[lane] += row[lane];
        }
    }
    total(black_box(sums)) + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Device, Kind, Reduction};

    use super::*;

    proptest! {
        #[test]
        fn a_logarithm_is_that_of_the_standard_library(x in 0f32..1.0) {
            let exact = f64::from(x).ln_1p();
            prop_assert!((f64::from(log_1p(x)) - exact).abs() <= 3e-7 * exact, "{x}");
        }
    }

    /// Loss and gradient are libtorch's, for small, large and huge logits.
    #[test]
    fn as_libtorch() {
        tch::manual_seed(1);
        for (n, scale) in [(1, 1.0), (16, 1.0), (100, 5.0), (3129, 0.01), (3129, 30.0), (50, 1e5)] {
            let logits = Tensor::randn([7, n], (Kind::Float, Device::Cpu)) * scale;
            let targets = Tensor::rand([7, n], (Kind::Float, Device::Cpu));
            let leaf = logits.set_requires_grad(true);
            let expected = leaf.binary_cross_entropy_with_logits(&targets, None::<&Tensor>, None, Reduction::Sum) / 7.0;
            expected.backward();
            let (loss, gradient) = bce_with_logits(&leaf, &targets);
            let (loss, expected) = (loss.double_value(&[]), expected.double_value(&[]));
            assert!((loss - expected).abs() <= 2e-6 * expected, "{n} {scale}: {loss}, {expected}");
            let difference = (gradient - leaf.grad()).abs().max().double_value(&[]);
            assert!(difference < 1e-6, "{n} {scale}: {difference}");
        }
    }

    /// Training that diverges must not look like training that goes well.
    #[test]
    fn what_is_not_finite_stays_so() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let logits = Tensor::from_slice(&[0.5, wrong, 1.0]).view([1, 3]);
            let (loss, _) = bce_with_logits(&logits, &(logits.zeros_like() + 0.5));
            assert!(!loss.double_value(&[]).is_finite(), "{wrong}");
        }
    }
}
