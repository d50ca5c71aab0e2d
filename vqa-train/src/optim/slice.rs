//! Flat tensors as slices.

use tch::Tensor;
use vqa_model::slice;

/// Returns the values of a flat float32 tensor on the CPU.
#[allow(unsafe_code)]
pub(super) fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    // SAFETY: the optimiser's own tensors do not overlap. The model's views of two of them are used between steps, not
    // during one.
    unsafe { slice::values_mut(tensor) }
}
