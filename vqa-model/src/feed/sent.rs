//! A batch in the memory of a device.

use tch::{Kind, Tensor};

use crate::feed::pieces::{N_PIECES, Pieces};

/// A batch in a single block of a device's memory, or on its way there.
#[derive(Debug)]
pub struct SentBatch {
    /// The bytes of all pieces.
    block: Tensor,
    layout: BatchLayout,
}

/// How a batch is laid out in its block of memory. Computations on two batches of the same layout differ in nothing but
/// the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchLayout {
    pieces: [PieceLayout; N_PIECES],
    /// Whether an image has fewer regions than another.
    pub(super) has_short_images: bool,
    /// How many states each step of a recurrent network has.
    pub(super) steps: Vec<i64>,
    /// In bytes.
    pub(super) size: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PieceLayout {
    kind: Kind,
    shape: Vec<i64>,
    /// In bytes.
    start: usize,
    size: usize,
}

impl BatchLayout {
    pub(super) fn new(pieces: &Pieces) -> BatchLayout {
        /// Pieces are aligned as libtorch's own tensors are.
        const ALIGNMENT: usize = 64;
        let mut end = 0usize;
        let pieces_of = pieces.list.each_ref().map(|piece| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + piece.size();
            PieceLayout { kind: piece.values.kind(), shape: piece.shape.clone(), start, size: piece.size() }
        });
        let size = end.next_multiple_of(ALIGNMENT);
        let Pieces { has_short_images, steps, .. } = pieces;
        BatchLayout { pieces: pieces_of, has_short_images: *has_short_images, steps: steps.clone(), size }
    }

    /// The range of a piece, in bytes.
    pub(super) fn range(&self, piece: usize) -> std::ops::Range<usize> {
        let PieceLayout { start, size, .. } = self.pieces[piece];
        start..start + size
    }
}

impl SentBatch {
    /// A batch in a block of as many bytes as its layout says.
    pub(super) fn new(block: Tensor, layout: BatchLayout) -> SentBatch {
        SentBatch { block, layout }
    }

    /// How the batch is laid out in memory.
    pub fn layout(&self) -> &BatchLayout {
        &self.layout
    }

    /// Returns a copy of the batch in memory of its own.
    pub fn copy(&self) -> SentBatch {
        SentBatch { block: self.block.copy(), layout: self.layout.clone() }
    }

    /// Queues a copy of another batch into this one's memory, after everything that was queued before.
    ///
    /// # Panics
    ///
    /// When its layout differs.
    pub fn copy_from(&mut self, other: &SentBatch) {
        assert_eq!(self.layout, other.layout);
        self.block.copy_(&other.block);
    }

    /// The pieces, as views of the batch's memory.
    pub(super) fn pieces(&self) -> [Tensor; N_PIECES] {
        self.layout.pieces.each_ref().map(|PieceLayout { kind, shape, start, size }| {
            self.block.narrow(0, *start as i64, *size as i64).view_dtype(*kind).view(&shape[..])
        })
    }
}
