//! Gradient clipping.

use std::hint::black_box;

use multiversion::multiversion;
use rayon::prelude::*;
use tch::Tensor;

use crate::optim::slice::values_mut;

/// Scales gradients down so that their norm is at most `max_norm`, like `torch.nn.utils.clip_grad_norm_`.
pub(super) fn clip_grad_norm(gradients: &mut Tensor, max_norm: f64) {
    tch::no_grad(|| {
        let scale = (max_norm / (gradients.norm() + 1e-6)).clamp_max(1.0);
        let _ = gradients.g_mul_(&scale);
    });
}

/// Returns the factor by which [`clip_grad_norm`] would scale gradients, for those on a CPU.
pub(super) fn scale_on_cpu(gradients: &mut Tensor, max_norm: f64) -> f32 {
    // Not `min`, so that NaN stays NaN.
    match max_norm / (norm_on_cpu(gradients) + 1e-6) {
        scale if scale > 1.0 => 1.0,
        scale => scale as f32,
    }
}

/// Returns the norm of the gradients, computed by several threads: libtorch uses only one for a flat tensor.
fn norm_on_cpu(gradients: &mut Tensor) -> f64 {
    /// The number of values that a thread processes at once.
    const CHUNK: usize = 1 << 14;
    // Collected before they are summed, so that the sum does not depend on the order in which threads finish.
    let squares: Vec<f32> = values_mut(gradients).par_chunks(CHUNK).map(sum_of_squares).collect();
    squares.into_iter().map(f64::from).sum::<f64>().sqrt()
}

/// Sums squares in float32, in so many lanes that each adds only a few values.
#[multiversion(targets = "simd")]
fn sum_of_squares(values: &[f32]) -> f32 {
    const LANES: usize = 64;
    let mut sums = [0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane] * chunk[lane];
        }
    }
    // Hides the sums from the compiler, which would otherwise group the lanes by the order in which they are added
    // here.
    black_box(sums).into_iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}
