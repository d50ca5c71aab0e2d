//! Flat tensors as slices.

use tch::Tensor;
use vqa_model::slice;

/// The values of a flat float32 tensor on the CPU.
#[allow(unsafe_code)]
pub(super) fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    // SAFETY: the optimiser's own tensors are separate from each other. The model's views of two of them are used
    // between steps, not during one.
    unsafe { slice::values_mut(tensor) }
}
