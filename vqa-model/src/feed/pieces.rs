//! A batch as the pieces of memory that are copied to a device.

use std::borrow::Cow;

use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;
use tch::{Kind, Tensor};
use vqa_data::batches::Batch;

use crate::feed::order::{BatchOrder, BatchQuestions, SharedStates};
use crate::feed::padded_sizes::{PaddedSizes, Size};
use crate::loss::target_lists;

/// A batch in pieces, and what the shapes of its pieces do not show.
pub(super) struct Pieces<'a> {
    pub(super) list: [Piece<'a>; N_PIECES],
    /// Whether an image has fewer regions than another.
    pub(super) has_short_images: bool,
    /// How many states each step of a recurrent network has, as in [`BatchOrder`].
    pub(super) steps: Vec<i64>,
}

/// The values of one tensor of a batch.
pub(super) struct Piece<'a> {
    pub(super) values: Values<'a>,
    /// The shape on the device. If there are fewer values, zeros follow them.
    pub(super) shape: Vec<i64>,
}

/// Values in the type that they have on the device.
pub(super) enum Values<'a> {
    I32(Vec<i32>),
    I64(Cow<'a, [i64]>),
    F32(Cow<'a, [f32]>),
    /// Rounded to bfloat16 when they are written.
    Bf16(&'a [f32]),
}

/// How to compute a batch's [`BatchOrder`].
#[derive(Clone, Copy)]
pub(super) struct Ordering {
    pub(super) shared: SharedStates,
    /// The id of padding.
    pub(super) padding: i64,
}

pub(super) const N_PIECES: usize = 10;

/// The pieces of a batch, in this order:
///
/// - tokens [B, T], image rows `[B]`, numbers of regions `[N]`;
/// - questions, answers and scores of the targets, `[P]` each, and where each question's begin, [B + 1];
/// - features [N, K, D] and boxes [N, K, 4]; or, where these are on the device with `starts` as in
///   [`Resident`](crate::feed::resident::Resident), the rows of the regions there, [N, K], and an empty piece;
/// - [`BatchOrder::numbers`], empty without `order`.
///
/// With `room`, batches are padded to the sizes that it gives, so that most have the same shapes: with images of zeros
/// that no question is about, scores of 0, and states that belong to no question. Losses and gradients are unaffected.
pub(super) fn pieces<'a>(
    batch: &'a Batch,
    kind: Kind,
    starts: Option<&[i64]>,
    order: Option<Ordering>,
    room: Option<&mut PaddedSizes>,
) -> Pieces<'a> {
    let mut exact = |_, n| n;
    let mut padded;
    let fit: &mut dyn FnMut(Size, usize) -> usize = match room {
        Some(room) => {
            padded = |size, n| room.fit(size, n);
            &mut padded
        }
        None => &mut exact,
    };
    let n = fit(Size::Images, batch.n_images());
    let (b, n, t) = (batch.len() as i64, n as i64, batch.max_len as i64);
    let (k, d) = (batch.max_regions as i64, batch.feature_dim as i64);
    let mut n_regions: Vec<i64> = batch.n_regions.iter().map(|&n| n as i64).collect();
    n_regions.resize(n as usize, k);
    let regions = match (starts, kind) {
        (Some(starts), _) => {
            let zeros = starts[starts.len() - 1];
            let rows = batch.images.iter().zip(&n_regions).flat_map(|(&image, &n)| {
                (0..k).map(move |region| if region < n { starts[image] + region } else { zeros })
            });
            let mut rows: Vec<i64> = rows.collect();
            rows.resize((n * k) as usize, zeros);
            Piece { values: Values::I64(rows.into()), shape: vec![n, k] }
        }
        (None, Kind::BFloat16) => Piece { values: Values::Bf16(&batch.features), shape: vec![n, k, d] },
        (None, _) => Piece { values: Values::F32(Cow::Borrowed(&*batch.features)), shape: vec![n, k, d] },
    };
    let boxes = match starts {
        Some(_) => Piece { values: Values::F32(Cow::Borrowed(&[])), shape: vec![0, 4] },
        None => Piece { values: Values::F32(Cow::Borrowed(&batch.boxes)), shape: vec![n, k, 4] },
    };
    let (order, steps) = order.map_or_else(Default::default, |Ordering { shared, padding }| {
        let Batch { tokens, max_len, image_rows, .. } = batch;
        let batch = BatchQuestions { tokens, max_len: *max_len, padding, image_rows, n_images: n as usize };
        BatchOrder::numbers(batch, shared, fit)
    });
    let order = Piece { shape: vec![order.len() as i64], values: Values::I32(order) };
    let mut target_starts = vec![0];
    target_starts.extend((0..batch.len()).scan(0, |end, question| {
        *end += batch.targets.of(question).count() as i32;
        Some(*end)
    }));
    let (questions, answers, scores) = target_lists(&batch.targets);
    let p = vec![fit(Size::Scores, scores.len()) as i64];
    let integers = |values: Vec<i64>, shape| Piece { values: Values::I64(Cow::Owned(values)), shape };
    let list = [
        Piece { values: Values::I64(Cow::Borrowed(&batch.tokens)), shape: vec![b, t] },
        Piece { values: Values::I64(Cow::Borrowed(&batch.image_rows)), shape: vec![b] },
        integers(n_regions, vec![n]),
        integers(questions, p.clone()),
        integers(answers, p.clone()),
        Piece { values: Values::F32(Cow::Owned(scores)), shape: p },
        Piece { shape: vec![b + 1], values: Values::I32(target_starts) },
        regions,
        boxes,
        order,
    ];
    Pieces { list, has_short_images: batch.n_regions.iter().any(|&n| n < batch.max_regions), steps }
}

impl Piece<'_> {
    /// Length in bytes.
    pub(super) fn size(&self) -> usize {
        self.shape.iter().product::<i64>() as usize * self.values.kind().elt_size_in_bytes()
    }

    /// Writes the piece to `to`, in parallel.
    ///
    /// # Panics
    ///
    /// When `to` differs in size from the piece, or is not aligned for its values.
    pub(super) fn write(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.size());
        let (values, zeros) = to.split_at_mut(self.values.size());
        self.values.write(values);
        zeros.fill(0);
    }

    /// As a tensor on the CPU.
    pub(super) fn tensor(&self) -> Tensor {
        self.values.tensor().view(&self.shape[..])
    }
}

impl Values<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Values::I32(_) => Kind::Int,
            Values::I64(_) => Kind::Int64,
            Values::F32(_) => Kind::Float,
            Values::Bf16(_) => Kind::BFloat16,
        }
    }

    /// Length in bytes.
    fn size(&self) -> usize {
        match self {
            Values::I32(values) => size_of_val(&**values),
            Values::I64(values) => size_of_val(&**values),
            Values::F32(values) => size_of_val(&**values),
            Values::Bf16(values) => 2 * values.len(),
        }
    }

    /// As a flat tensor on the CPU.
    fn tensor(&self) -> Tensor {
        match self {
            Values::I32(values) => Tensor::from_slice(values),
            Values::I64(values) => Tensor::from_slice(values),
            Values::F32(values) => Tensor::from_slice(values),
            Values::Bf16(values) => Tensor::from_slice(values).to_kind(Kind::BFloat16),
        }
    }

    fn write(&self, to: &mut [u8]) {
        /// How many values or bytes a thread copies at a time.
        const CHUNK: usize = 1 << 16;
        assert_eq!(to.len(), self.size());
        let copy = |from: &[u8], to: &mut [u8]| {
            from.par_chunks(CHUNK).zip(to.par_chunks_mut(CHUNK)).for_each(|(from, to)| to.copy_from_slice(from));
        };
        match self {
            Values::I32(values) => copy(bytemuck::cast_slice(values), to),
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
