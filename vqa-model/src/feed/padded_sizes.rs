//! Sizes that batches are padded to.

use std::collections::HashMap;

/// A size that differs from batch to batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Size {
    /// Distinct images.
    Images,
    /// Answers that have a score.
    Scores,
    /// Rows of words, as in [`BatchOrder`](crate::feed::order::BatchOrder).
    Rows,
    /// States of a step of a recurrent network.
    States(usize),
}

/// The sizes that batches of `batch_size` questions are padded to: those seen so far with some to spare, so that soon
/// all batches have the same sizes.
#[derive(Debug)]
pub(super) struct PaddedSizes {
    batch_size: usize,
    sizes: HashMap<Size, usize>,
}

impl PaddedSizes {
    /// Starts without any sizes.
    pub(super) fn new(batch_size: usize) -> PaddedSizes {
        PaddedSizes { batch_size, sizes: HashMap::new() }
    }

    /// Returns what `n` is padded to.
    pub(super) fn fit(&mut self, size: Size, n: usize) -> usize {
        // How much is added to spare, and the multiple to round up to. Images cost the most.
        let (spare, round) = match size {
            Size::Images => (n / 32 + 2, 8),
            Size::Scores => (n / 8, 256),
            Size::Rows => (n / 16, 64),
            Size::States(_) => (n / 4 + 24, 64),
        };
        let room = self.sizes.entry(size).or_default();
        if n > *room {
            *room = (n + spare).next_multiple_of(round);
            if matches!(size, Size::States(_) | Size::Images) {
                // There are never more of these than questions.
                *room = (*room).min(self.batch_size);
            }
        }
        *room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_seldom() {
        let mut room = PaddedSizes::new(512);
        for size in [Size::Images, Size::Scores, Size::Rows, Size::States(3)] {
            let first = room.fit(size, 100);
            assert!((101..=256).contains(&first) && first.is_multiple_of(8));
            assert_eq!([room.fit(size, first), room.fit(size, 0)], [first; 2]);
            assert!(room.fit(size, first + 1) > first + 1);
        }
        assert_eq!([Size::States(0), Size::Images].map(|size| room.fit(size, 511)), [512; 2]);
    }
}
