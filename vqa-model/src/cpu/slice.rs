//! Tensors on the CPU as slices, for what is computed here and not by libtorch. The only unsafe code of the
//! written-out passes.

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

/// Not the conversions of `half`: they treat every NaN separately, which keeps loops from being vectorised. The
/// NaNs that arithmetic makes stay NaN here too.
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

/// Values that a thread works on at a time: they fit into its nearest cache.
pub(crate) const CHUNK: usize = 1 << 14;

/// The values of a contiguous tensor on the CPU.
///
/// Safe for this crate's passes on a CPU and its losses alone, which keep to this: kernels run between libtorch's operations,
/// not beside them, and no kernel is given the same memory to read and to write.
#[allow(unsafe_code)]
pub(crate) fn values<T: Number>(tensor: &Tensor) -> &[T] {
    // SAFETY: the passes' tensors are results of libtorch's operations or of the functions below, and so have
    // been written. While a kernel reads one, nothing writes to it, as said above.
    unsafe { slice::values(tensor) }
}

/// The values of a contiguous tensor on the CPU, to be changed. See [`values`].
#[allow(unsafe_code)]
pub(crate) fn values_mut<T: Number>(tensor: &mut Tensor) -> &mut [T] {
    // SAFETY: written, as in `values`. The passes change only tensors that they have just made, which share no
    // memory with others that are in use, and gradients of parameters, which nothing else reads during a
    // backward pass.
    unsafe { slice::values_mut(tensor) }
}

/// A new tensor on the CPU: zeros, which `change` may then change. For sums, and for what is small.
pub(crate) fn from_zeros<T: Number>(shape: &[i64], change: impl FnOnce(&mut [T])) -> Tensor {
    let mut tensor = Tensor::zeros(shape, (T::KIND, Device::Cpu));
    change(values_mut(&mut tensor));
    tensor
}

/// A new tensor on the CPU, written in parallel in rows of `len` values, the last of which may be shorter.
/// `write` is given the number of a row and its memory, which it returns once all of it is written. For large
/// tensors: no time is spent on zeros first.
#[allow(unsafe_code)]
pub(crate) fn from_rows<T: Number>(
    shape: &[i64],
    len: usize,
    write: impl for<'row> Fn(usize, &'row mut [MaybeUninit<T>]) -> &'row mut [T] + Sync,
) -> Tensor {
    let tensor = Tensor::empty(shape, (T::KIND, Device::Cpu));
    let (start, n_values) = slice::memory::<T>(&tensor);
    // SAFETY: the tensor has memory for these values, it is new and so nothing else has it, and it lives longer
    // than the slice.
    let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<T>>(), n_values) };
    memory.par_chunks_mut(len).enumerate().for_each(|(i, row)| {
        let expected = (row.as_ptr().cast::<T>(), row.len());
        let written = write(i, row);
        // Initialised values in the place of the row, and as many: so the row is initialised.
        assert_eq!((written.as_ptr(), written.len()), expected, "`write` returned other memory than its row");
    });
    tensor
}

/// [`from_rows`] of `n` rows of `len` values, with as many rows of zeros behind them as [`padded`] says: further rows of
/// a product change nothing in the others.
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

/// How many rows a matrix of a product is given for `n` that differ from batch to batch.
///
/// For bfloat16, libtorch's products compile code for the processor, each time that the shape is a new one. So there are
/// few shapes: steps of 16 rows, as many as are computed at once, and from 64 on larger ones. In an epoch's first
/// batches, that is a fifth of the shapes for some hundredths more arithmetic. Nor are there fewer than 16 rows, which
/// would have the whole weight rearranged first. Products of float32 gain nothing by it.
pub(crate) fn padded<T: Number>(n: usize) -> usize {
    let step = match n {
        _ if T::KIND == Kind::Float => 1,
        0..=64 => 16,
        65..=512 => 32,
        _ => 64,
    };
    n.next_multiple_of(step)
}

/// Writes a value for each of `from`, and returns them.
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
    // SAFETY: the loop has written every one of them, as both slices are equally long.
    unsafe { &mut *(std::ptr::from_mut(into) as *mut [B]) }
}
