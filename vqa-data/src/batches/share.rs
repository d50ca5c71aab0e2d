//! The share of an epoch that one of several processes loads.

use std::ops::Range;

/// The share of an epoch that a loader builds. The shares of all processes make up the full epoch, and a share is the
/// same wherever its process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Share {
    /// All of it.
    #[default]
    All,
    /// A run of consecutive questions of each batch, about as long as any other process's: runs meet at the boundary
    /// between two images that is nearest to an even split. It may be empty in a small batch.
    OfEachBatch {
        /// Index of the process, from 0.
        process: usize,
        /// Number of processes.
        of: usize,
    },
    /// Every `of`th batch, starting with the batch whose number is `process`.
    OfBatches {
        /// Index of the process, from 0.
        process: usize,
        /// Number of processes.
        of: usize,
    },
}

impl Share {
    /// Returns the range of this share in a batch of `n` questions. `is_border` says whether a question is about a
    /// different image from the one before it.
    pub(crate) fn of_batch(self, n: usize, is_border: impl Fn(usize) -> bool) -> Range<usize> {
        let Share::OfEachBatch { process, of } = self else { return 0..n };
        let border = |process: usize| {
            let even = n * process / of;
            let is_border = |&i: &usize| i == 0 || i >= n || is_border(i);
            let distances = 0..=n;
            // Of two equally near boundaries, both neighbours choose the same one.
            distances.flat_map(|d| [even.checked_sub(d), Some(even + d)]).flatten().find(is_border).unwrap_or(n).min(n)
        };
        border(process)..border(process + 1)
    }

    /// Whether the share may have questions of the batch with this number in the epoch.
    pub(crate) fn has_batch(self, number: usize) -> bool {
        match self {
            Share::OfBatches { process, of } => number % of == process,
            Share::All | Share::OfEachBatch { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The shares cover all questions in order; no image is in two shares; and no share exceeds an even one by more
        /// than a group.
        #[test]
        fn shares_of_a_batch_make_it_up(sizes in prop::collection::vec(1usize..9, 1..60), of in 1usize..9) {
            let starts: Vec<usize> = sizes.iter().scan(0, |end, &size| {
                *end += size;
                Some(*end - size)
            }).collect();
            let n: usize = sizes.iter().sum();
            let largest = *sizes.iter().max().unwrap();
            let mut end = 0;
            for process in 0..of {
                let share = Share::OfEachBatch { process, of }.of_batch(n, |i| starts.contains(&i));
                prop_assert_eq!(share.start, end);
                prop_assert!(share.start == n || starts.contains(&share.start));
                prop_assert!(share.len() <= n.div_ceil(of) + largest, "{share:?} of {n}");
                end = share.end;
            }
            prop_assert_eq!(end, n);
        }
    }

    #[test]
    fn few_questions_are_the_share_of_some() {
        let shares =
            |n| (0..3).map(|process| Share::OfEachBatch { process, of: 3 }.of_batch(n, |_| true)).collect::<Vec<_>>();
        assert_eq!(shares(1), [0..0, 0..0, 0..1]);
        assert_eq!(shares(7), [0..2, 2..4, 4..7]);
    }
}
