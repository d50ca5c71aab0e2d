//! Tensors on the CPU as slices, for what is computed here rather than by libtorch. This is the only unsafe code of the
//! written-out passes on a CPU.

use std::mem::MaybeUninit;

use half::bf16;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::slice;
use crate::slice::Value;

/// A number type that the kernels read and write. They compute in float32 whatever they read.
pub(crate) trait Number: Value + Default + Send + Sync + 'static {
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

/// The conversions of `half` are not used: they handle NaN separately, which keeps loops from being vectorised. NaNs
/// that result from arithmetic stay NaN here too.
impl Number for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Rounds to nearest, ties to even.
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        let bits = x.to_bits();
        let half = 0x7fff + ((bits >> 16) & 1);
        bf16::from_bits((bits.wrapping_add(half) >> 16) as u16)
    }
}

/// Values that a thread processes at a time, few enough to stay in its cache.
pub(crate) const CHUNK: usize = 1 << 14;

/// The values of a contiguous tensor on the CPU.
///
/// This is safe only for this crate's passes on a CPU and its losses, which keep to two rules: kernels run between
/// libtorch's operations, never concurrently with them, and no kernel gets the same memory both to read and to write.
#[allow(unsafe_code)]
pub(crate) fn values<T: Number>(tensor: &Tensor) -> &[T] {
    // SAFETY: the passes' tensors are results of libtorch's operations or of the functions below, and so are
    // initialised. While a kernel reads one, nothing writes to it, as said above.
    unsafe { slice::values(tensor) }
}

/// The values of a contiguous tensor on the CPU, mutably. See [`values`].
#[allow(unsafe_code)]
pub(crate) fn values_mut<T: Number>(tensor: &mut Tensor) -> &mut [T] {
    // SAFETY: initialised, as in `values`. The passes change only tensors that they have just created, which share no
    // memory with others that are in use, and gradients of parameters, which nothing else reads during a
    // backward pass.
    unsafe { slice::values_mut(tensor) }
}

/// Creates a tensor of zeros on the CPU, which `change` may then change. For sums, and for small tensors.
pub(crate) fn from_zeros<T: Number>(shape: &[i64], change: impl FnOnce(&mut [T])) -> Tensor {
    let mut tensor = Tensor::zeros(shape, (T::KIND, Device::Cpu));
    change(values_mut(&mut tensor));
    tensor
}

/// Creates a tensor on the CPU, written in parallel in rows of `len` values, the last of which may be shorter.
/// `write` is given the index of a row and its memory, which it returns once all of it is written. For large
/// tensors: no time is spent on zeroing them first.
#[allow(unsafe_code)]
pub(crate) fn from_rows<T: Number>(
    shape: &[i64],
    len: usize,
    write: impl for<'row> Fn(usize, &'row mut [MaybeUninit<T>]) -> &'row mut [T] + Sync,
) -> Tensor {
    let tensor = Tensor::empty(shape, (T::KIND, Device::Cpu));
    let (start, n_values) = slice::memory::<T>(&tensor);
    // SAFETY: the tensor has memory for these values, it is new and so nothing else uses it, and it outlives the
    // slice.
    let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<T>>(), n_values) };
    memory.par_chunks_mut(len).enumerate().for_each(|(i, row)| {
        let expected = (row.as_ptr().cast::<T>(), row.len());
        let written = write(i, row);
        // As many initialised values, at the row's address: so the row is initialised.
        assert_eq!((written.as_ptr(), written.len()), expected, "`write` returned other memory than its row");
    });
    tensor
}

/// [`from_rows`] with `n` rows of `len` values, followed by as many rows of zeros as [`padded`] says: additional rows
/// of a product don't affect the others.
pub(crate) fn from_padded_rows<T: Number>(
    n: usize,
    len: usize,
    write: impl for<'row> Fn(usize, &'row mut [MaybeUninit<T>]) -> &'row mut [T] + Sync,
) -> Tensor {
    from_rows::<T>(&[padded::<T>(n) as i64, len as i64], len, |i, row| match i < n {
        true => write(i, row),
        false => {
            let all = vec![(); row.len()];
            write_each(row, &all, |()| T::default())
        }
    })
}

/// How many rows a matrix gets in a product, given a number `n` that differs from batch to batch.
///
/// For bfloat16, libtorch compiles machine code for every new shape of a product. So shapes are kept few: multiples of
/// 16 rows, as many as are computed at once, and of more above 64. In an epoch's first batches, that is a fifth of the
/// shapes for a few percent more arithmetic. It also avoids products with fewer than 16 rows, for which the entire
/// weight would be rearranged first. Products of float32 gain nothing from padding.
pub(crate) fn padded<T: Number>(n: usize) -> usize {
    let step = match n {
        _ if T::KIND == Kind::Float => 1,
        0..=64 => 16,
        65..=512 => 32,
        _ => 64,
    };
    n.next_multiple_of(step)
}

/// Writes the `value` of each element of `from`, and returns the written values.
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn write_each<'a, A: Copy, B>(
    into: &'a mut [MaybeUninit<B>],
    from: &[A],
    value: impl Fn(A) -> B,
) -> &'a mut [B] {
    assert_eq!(into.len(), from.len());
    for (into, &x) in into.iter_mut().zip(from) {
        into.write(value(x));
    }
    // SAFETY: the loop has written every element, as both slices are equally long.
    unsafe { &mut *(std::ptr::from_mut(into) as *mut [B]) }
}
