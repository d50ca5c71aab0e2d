//! A batch as the pieces of memory that are copied to a device.

use std::borrow::Cow;

use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;
use tch::{Kind, Tensor};
use vqa_data::batches::Batch;

use crate::loss::target_lists;

/// The values of one tensor of a batch.
pub(super) struct Piece<'a> {
    pub(super) values: Values<'a>,
    pub(super) shape: Vec<i64>,
}

/// Values in the type that they have on the device.
pub(super) enum Values<'a> {
    I64(Cow<'a, [i64]>),
    F32(Cow<'a, [f32]>),
    /// Rounded on the way.
    Bf16(&'a [f32]),
}

pub(super) const N_PIECES: usize = 8;

/// The pieces of a batch, in this order:
///
/// - tokens [B, T], image rows `[B]`, numbers of regions `[N]`;
/// - questions, answers and scores of the targets, `[P]` each;
/// - features [N, K, D] and boxes [N, K, 4]; or, where these are on the device with `starts` as in
///   [`Resident`](crate::feed::resident::Resident), the rows of the regions there, [N, K], and nothing.
pub(super) fn pieces<'a>(batch: &'a Batch, kind: Kind, starts: Option<&[i64]>) -> [Piece<'a>; N_PIECES] {
    let (b, n, t) = (batch.len() as i64, batch.n_images() as i64, batch.max_len as i64);
    let (k, d) = (batch.max_regions as i64, batch.feature_dim as i64);
    let n_regions: Vec<i64> = batch.n_regions.iter().map(|&n| n as i64).collect();
    let regions = match (starts, kind) {
        (Some(starts), _) => {
            let zeros = starts[starts.len() - 1];
            let rows = batch.images.iter().zip(&n_regions).flat_map(|(&image, &n)| {
                (0..k).map(move |region| if region < n { starts[image] + region } else { zeros })
            });
            Piece { values: Values::I64(rows.collect()), shape: vec![n, k] }
        }
        (None, Kind::BFloat16) => Piece { values: Values::Bf16(&batch.features), shape: vec![n, k, d] },
        (None, _) => Piece { values: Values::F32(Cow::Borrowed(&*batch.features)), shape: vec![n, k, d] },
    };
    let boxes = match starts {
        Some(_) => Piece { values: Values::F32(Cow::Borrowed(&[])), shape: vec![0, 4] },
        None => Piece { values: Values::F32(Cow::Borrowed(&batch.boxes)), shape: vec![n, k, 4] },
    };
    let (questions, answers, scores) = target_lists(&batch.targets);
    let p = vec![scores.len() as i64];
    let integers = |values: Vec<i64>, shape| Piece { values: Values::I64(Cow::Owned(values)), shape };
    [
        Piece { values: Values::I64(Cow::Borrowed(&batch.tokens)), shape: vec![b, t] },
        Piece { values: Values::I64(Cow::Borrowed(&batch.image_rows)), shape: vec![b] },
        integers(n_regions, vec![n]),
        integers(questions, p.clone()),
        integers(answers, p.clone()),
        Piece { values: Values::F32(Cow::Owned(scores)), shape: p },
        regions,
        boxes,
    ]
}

impl Values<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Values::I64(_) => Kind::Int64,
            Values::F32(_) => Kind::Float,
            Values::Bf16(_) => Kind::BFloat16,
        }
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Values::I64(values) => size_of_val(&**values),
            Values::F32(values) => size_of_val(&**values),
            Values::Bf16(values) => 2 * values.len(),
        }
    }

    /// As a flat tensor on the CPU.
    pub(super) fn tensor(&self) -> Tensor {
        match self {
            Values::I64(values) => Tensor::from_slice(values),
            Values::F32(values) => Tensor::from_slice(values),
            Values::Bf16(values) => Tensor::from_slice(values).to_kind(Kind::BFloat16),
        }
    }

    /// Writes the values to `to`, in parallel.
    ///
    /// # Panics
    ///
    /// When `to` has another size than the values, or is not aligned for them.
    pub(super) fn write(&self, to: &mut [u8]) {
        /// Values, or their bytes, that a thread copies at a time.
        const CHUNK: usize = 1 << 16;
        assert_eq!(to.len(), self.size());
        let copy = |from: &[u8], to: &mut [u8]| {
            from.par_chunks(CHUNK).zip(to.par_chunks_mut(CHUNK)).for_each(|(from, to)| to.copy_from_slice(from));
        };
        match self {
            Values::I64(values) => copy(bytemuck::cast_slice(values), to),
            Values::F32(values) => copy(bytemuck::cast_slice(values), to),
            Values::Bf16(values) => {
                let to: &mut [bf16] = bytemuck::cast_slice_mut::<u8, u16>(to).reinterpret_cast_mut();
                values
                    .par_chunks(CHUNK)
                    .zip(to.par_chunks_mut(CHUNK))
                    .for_each(|(from, to)| to.convert_from_f32_slice(from));
            }
        }
    }
}
