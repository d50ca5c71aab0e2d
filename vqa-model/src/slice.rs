//! Tensors on the CPU as slices, for what is not computed by libtorch.

use tch::{Device, Kind, Tensor, kind::Element};

fn assert_plain(tensor: &Tensor, kind: Kind) {
    assert!(
        tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.is_contiguous(),
        "a contiguous tensor of {kind:?} on the CPU is wanted, not {tensor:?}"
    );
}

/// The values of a contiguous tensor on the CPU.
///
/// # Safety
///
/// Nobody writes to the tensor's memory while the slice is in use, through this handle or another one that shares it.
///
/// # Panics
///
/// When it is another tensor.
#[allow(unsafe_code)]
pub unsafe fn values<T: Element>(tensor: &Tensor) -> &[T] {
    assert_plain(tensor, T::KIND);
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: the tensor has `numel` values of this kind one after the other, and keeps them while it is borrowed.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// The values of a contiguous tensor on the CPU, to write.
///
/// # Safety
///
/// Nobody else reads or writes the tensor's memory while the slice is in use, through this handle or another one that shares it.
///
/// # Panics
///
/// When it is another tensor.
#[allow(unsafe_code)]
pub unsafe fn values_mut<T: Element>(tensor: &mut Tensor) -> &mut [T] {
    assert_plain(tensor, T::KIND);
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}
