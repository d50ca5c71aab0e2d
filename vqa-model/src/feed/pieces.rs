//! A batch as the pieces of memory that go to a device.

use std::borrow::Cow;

use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;
use tch::{Kind, Tensor};
use vqa_data::batches::Batch;

use crate::loss::target_lists;

/// Numbers of a batch that go to the device together.
pub(super) struct Piece<'a> {
    pub(super) numbers: Numbers<'a>,
    pub(super) shape: Vec<i64>,
}

pub(super) enum Numbers<'a> {
    I64(Cow<'a, [i64]>),
    F32(Cow<'a, [f32]>),
    /// To be rounded.
    Bf16(&'a [f32]),
}

pub(super) const N_PIECES: usize = 8;

/// Tokens [B, T], rows of images `[B]`, numbers of regions `[N]`; questions, answers and scores of the targets `[P]`;
/// features [N, K, D] and boxes [N, K, 4], or, with `starts` of the images, the places of their regions [N, K] and nothing.
pub(super) fn pieces<'a>(batch: &'a Batch, kind: Kind, starts: Option<&[i64]>) -> [Piece<'a>; N_PIECES] {
    let (b, n, t) = (batch.len() as i64, batch.n_images() as i64, batch.max_len as i64);
    let (k, d) = (batch.max_regions as i64, batch.feature_dim as i64);
    let n_regions: Vec<i64> = batch.n_regions.iter().map(|&n| n as i64).collect();
    let regions = match (starts, kind) {
        (Some(starts), _) => {
            let nothing = starts[starts.len() - 1];
            let places = batch.images.iter().zip(&n_regions).flat_map(|(&image, &n)| {
                (0..k).map(move |region| if region < n { starts[image] + region } else { nothing })
            });
            Piece { numbers: Numbers::I64(places.collect()), shape: vec![n, k] }
        }
        (None, Kind::BFloat16) => Piece { numbers: Numbers::Bf16(&batch.features), shape: vec![n, k, d] },
        (None, _) => Piece { numbers: Numbers::F32(Cow::Borrowed(&*batch.features)), shape: vec![n, k, d] },
    };
    let boxes = match starts {
        Some(_) => Piece { numbers: Numbers::F32(Cow::Borrowed(&[])), shape: vec![0, 4] },
        None => Piece { numbers: Numbers::F32(Cow::Borrowed(&batch.boxes)), shape: vec![n, k, 4] },
    };
    let (questions, answers, scores) = target_lists(&batch.targets);
    let p = vec![scores.len() as i64];
    let integers = |numbers: Vec<i64>, shape| Piece { numbers: Numbers::I64(Cow::Owned(numbers)), shape };
    [
        Piece { numbers: Numbers::I64(Cow::Borrowed(&batch.tokens)), shape: vec![b, t] },
        Piece { numbers: Numbers::I64(Cow::Borrowed(&batch.image_rows)), shape: vec![b] },
        integers(n_regions, vec![n]),
        integers(questions, p.clone()),
        integers(answers, p.clone()),
        Piece { numbers: Numbers::F32(Cow::Owned(scores)), shape: p },
        regions,
        boxes,
    ]
}

impl Numbers<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Numbers::I64(_) => Kind::Int64,
            Numbers::F32(_) => Kind::Float,
            Numbers::Bf16(_) => Kind::BFloat16,
        }
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Numbers::I64(numbers) => size_of_val(&**numbers),
            Numbers::F32(numbers) => size_of_val(&**numbers),
            Numbers::Bf16(numbers) => 2 * numbers.len(),
        }
    }

    pub(super) fn tensor(&self) -> Tensor {
        match self {
            Numbers::I64(numbers) => Tensor::from_slice(numbers),
            Numbers::F32(numbers) => Tensor::from_slice(numbers),
            Numbers::Bf16(numbers) => Tensor::from_slice(numbers).to_kind(Kind::BFloat16),
        }
    }

    /// Writes the bytes, with the help of rayon's threads. `to` begins where any number may.
    pub(super) fn write(&self, to: &mut [u8]) {
        /// Numbers that a thread works on at once.
        const CHUNK: usize = 1 << 16;
        let copy = |from: &[u8], to: &mut [u8]| {
            from.par_chunks(CHUNK).zip(to.par_chunks_mut(CHUNK)).for_each(|(from, to)| to.copy_from_slice(from));
        };
        match self {
            Numbers::I64(numbers) => copy(bytemuck::cast_slice(numbers), to),
            Numbers::F32(numbers) => copy(bytemuck::cast_slice(numbers), to),
            Numbers::Bf16(numbers) => {
                let to: &mut [bf16] = bytemuck::cast_slice_mut::<u8, u16>(to).reinterpret_cast_mut();
                numbers
                    .par_chunks(CHUNK)
                    .zip(to.par_chunks_mut(CHUNK))
                    .for_each(|(from, to)| to.convert_from_f32_slice(from));
            }
        }
    }
}
