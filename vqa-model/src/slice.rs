//! Tensors on the CPU as slices, for computations that are not libtorch's.

use half::bf16;
use tch::{Device, Kind, Tensor};

/// A Rust number type and libtorch's name for it. tch's own trait `Element` maps bfloat16 to float16.
///
/// # Safety
///
/// The type must be laid out in memory as libtorch's [`KIND`](Value::KIND) is, and every bit pattern must be valid.
#[allow(unsafe_code)]
pub unsafe trait Value: Copy {
    /// libtorch's name for the type.
    const KIND: Kind;
}

// SAFETY: both are IEEE 754's 32-bit floating-point type.
#[allow(unsafe_code)]
unsafe impl Value for f32 {
    const KIND: Kind = Kind::Float;
}

// SAFETY: both are the upper 16 bits of a float32.
#[allow(unsafe_code)]
unsafe impl Value for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// Returns the values of a contiguous tensor on the CPU.
///
/// # Safety
///
/// All values must be initialised, and nothing may write to the tensor's memory while the slice is in use, whether
/// through this handle or another that shares the memory.
///
/// # Panics
///
/// When the tensor is on another device, of another type, or not contiguous.
#[allow(unsafe_code)]
pub unsafe fn values<T: Value>(tensor: &Tensor) -> &[T] {
    let (start, len) = memory(tensor);
    // SAFETY: `memory` guarantees the address and length, the caller the rest. The borrowed tensor keeps its memory
    // alive.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Returns the values of a contiguous tensor on the CPU as a mutable slice.
///
/// # Safety
///
/// All values must be initialised, and nothing else may read or write the tensor's memory while the slice is in use,
/// whether through this handle or another that shares the memory.
///
/// # Panics
///
/// When the tensor is on another device, of another type, or not contiguous.
#[allow(unsafe_code)]
pub unsafe fn values_mut<T: Value>(tensor: &mut Tensor) -> &mut [T] {
    let (start, len) = memory(tensor);
    // SAFETY: as in `values`.
    unsafe { std::slice::from_raw_parts_mut(start, len) }
}

/// Returns the address of the first value of a contiguous tensor on the CPU, and the number of values.
pub(crate) fn memory<T: Value>(tensor: &Tensor) -> (*mut T, usize) {
    assert!(
        tensor.device() == Device::Cpu && tensor.kind() == T::KIND && tensor.is_contiguous(),
        "a contiguous tensor of {:?} on the CPU is wanted, not {tensor:?}",
        T::KIND
    );
    match tensor.numel() {
        // libtorch allocates nothing for these, and a slice may not start at null.
        0 => (std::ptr::dangling_mut(), 0),
        len => (tensor.data_ptr().cast(), len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn values_are_those_that_libtorch_shows() {
        let tensor = Tensor::from_slice(&[1.5f32, -2.0, 0.0]);
        let mut bf16s = tensor.to_kind(Kind::BFloat16);
        // SAFETY: initialised above, and nothing else has these tensors.
        unsafe {
            assert_eq!(values::<f32>(&tensor), [1.5, -2.0, 0.0]);
            assert_eq!(values::<bf16>(&bf16s), [1.5, -2.0, 0.0].map(bf16::from_f32));
            values_mut::<bf16>(&mut bf16s)[2] = bf16::from_f32(7.0);
            assert!(values::<f32>(&tensor.narrow(0, 0, 0)).is_empty());
        }
        assert_eq!(Vec::<f32>::try_from(bf16s.to_kind(Kind::Float)).unwrap(), [1.5, -2.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "a contiguous tensor of BFloat16")]
    #[allow(unsafe_code)]
    fn float16_is_not_bfloat16() {
        let tensor = Tensor::zeros([2], (Kind::Half, Device::Cpu));
        // SAFETY: as above.
        unsafe { values::<bf16>(&tensor) };
    }
}
