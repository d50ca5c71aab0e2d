//! Clipping of gradients.

use tch::{Device, Tensor};

/// Scales gradients down so that their norm is at most `max_norm`. Returns what it was. As
/// `torch.nn.utils.clip_grad_norm_`.
pub(super) fn clip_grad_norm(gradients: &mut Tensor, max_norm: f64) -> Tensor {
    tch::no_grad(|| {
        let total = gradients.norm();
        let scale = (max_norm / (&total + 1e-6)).clamp_max(1.0);
        // On a CPU it costs nothing to look, and most steps of a long run need no clipping.
        if gradients.device() != Device::Cpu || scale.double_value(&[]) < 1.0 {
            let _ = gradients.g_mul_(&scale);
        }
        total
    })
}
