//! Tensors on the CPU as slices, for what is computed here and not by libtorch. The only unsafe code of the fast path.

use half::bf16;
use tch::{Device, Tensor};

use crate::slice;
use crate::slice::Value;

/// A number type that the kernels read and write. They compute in float32 whatever they read.
pub(super) trait Number: Value + Copy + Default + Send + Sync + 'static {
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

/// Not the conversions of `half`, whose care for every NaN keeps loops from being vectorised. Those that arithmetic makes
/// stay NaN here too.
impl Number for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To the nearest, and of two that are as near to the even one.
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        let bits = x.to_bits();
        let half = 0x7fff + ((bits >> 16) & 1);
        bf16::from_bits((bits.wrapping_add(half) >> 16) as u16)
    }
}

/// The numbers of a contiguous tensor on the CPU.
#[allow(unsafe_code)]
pub(super) fn numbers<T: Number>(tensor: &Tensor) -> &[T] {
    // SAFETY: nothing writes to a tensor that the kernels read: they run between libtorch's operations, not beside them.
    unsafe { slice::values(tensor) }
}

/// The numbers of a contiguous tensor on the CPU, to write.
#[allow(unsafe_code)]
pub(super) fn numbers_mut<T: Number>(tensor: &mut Tensor) -> &mut [T] {
    // SAFETY: the kernels write only to tensors that they have just made, and to gradients, neither of which is read meanwhile
    // through another handle.
    unsafe { slice::values_mut(tensor) }
}

/// A new tensor of this shape, on the CPU, whose numbers `fill` writes. It must write them all.
pub(super) fn filled<T: Number>(shape: &[i64], fill: impl FnOnce(&mut [T])) -> Tensor {
    let mut tensor = Tensor::empty(shape, (T::KIND, Device::Cpu));
    fill(numbers_mut(&mut tensor));
    tensor
}
