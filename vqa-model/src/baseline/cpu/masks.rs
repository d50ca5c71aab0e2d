//! Dropout masks, as bits.

use rayon::prelude::*;
use tch::Tensor;
use vqa_data::random::split_mix_64;

use crate::cpu::kernels;
use crate::cpu::kernels::LANES;
use crate::cpu::slice::{Number, values_mut};
use crate::model::DropoutSeed;

/// For each entry of a matrix, whether dropout keeps it: [rows, columns] bits, in words of 16.
pub(super) struct DropoutMasks {
    bits: Vec<u16>,
    words_per_row: usize,
    /// What the kept entries are multiplied by.
    pub(super) scale: f32,
}

/// Returns the threshold and the scale of dropout with probability `p`: an entry is kept if 16 random bits are below
/// the threshold, and is then multiplied by the scale.
pub(crate) fn threshold_and_scale(p: f64) -> (u32, f32) {
    let threshold = (((1.0 - p) * 65_536.0).round() as u32).max(1);
    (threshold, (65_536.0 / f64::from(threshold)) as f32)
}

impl DropoutMasks {
    /// Draws the masks of questions that have `rows_per_question` rows each. The mask of a question's row depends only
    /// on the seed and the two indices, not on how many other questions and rows there are. Each entry is dropped with
    /// probability `p`, rounded to a multiple of 1 / 65,536 below 1.
    pub(super) fn draw(
        DropoutSeed { seed, first }: DropoutSeed,
        rows: usize,
        rows_per_question: usize,
        columns: usize,
        p: f64,
    ) -> DropoutMasks {
        DropoutMasks::of_rows(rows, columns, p, |row| {
            let (question, row) = (first + row / rows_per_question, row % rows_per_question);
            split_mix_64(seed ^ split_mix_64(question as u64)) ^ split_mix_64(row as u64)
        })
    }

    /// Draws the masks of rows that each have a key. Rows with the same key have the same mask.
    pub(super) fn draw_by_keys(seed: u64, keys: &[u64], columns: usize, p: f64) -> DropoutMasks {
        DropoutMasks::of_rows(keys.len(), columns, p, |row| seed ^ split_mix_64(keys[row]))
    }

    /// Draws a mask from the seed of each row, so that the number of threads doesn't matter.
    fn of_rows(rows: usize, columns: usize, p: f64, seed_of: impl Fn(usize) -> u64 + Sync) -> DropoutMasks {
        let words_per_row = columns.div_ceil(LANES);
        let mut bits = vec![0; rows * words_per_row];
        let (threshold, scale) = threshold_and_scale(p);
        bits.par_chunks_mut(words_per_row).enumerate().for_each(|(row, mask)| {
            kernels::draw_mask(split_mix_64(seed_of(row)), threshold, mask);
        });
        DropoutMasks { bits, words_per_row, scale }
    }

    /// The bits of a row. Column `i` is bit `i % 16` of word `i / 16`.
    pub(super) fn row(&self, row: usize) -> &[u16] {
        &self.bits[row * self.words_per_row..][..self.words_per_row]
    }

    /// Drops entries of a matrix [rows, columns], and scales the others. Rows of padding after these stay as they are.
    pub(super) fn apply<T: Number>(&self, matrix: &mut Tensor) {
        let columns = matrix.size()[1] as usize;
        let rows = values_mut::<T>(matrix).par_chunks_mut(columns).zip(self.bits.par_chunks(self.words_per_row));
        rows.for_each(|(values, mask)| kernels::dropout(values, mask, self.scale));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(seed: u64) -> DropoutSeed {
        DropoutSeed { seed, first: 0 }
    }

    /// The rest of the batch, and the number of rows per question, don't matter.
    #[test]
    fn the_masks_of_a_question_follow_from_its_place() {
        let whole = DropoutMasks::draw(DropoutSeed { seed: 7, first: 10 }, 6 * 4, 4, 100, 0.5);
        let part = DropoutMasks::draw(DropoutSeed { seed: 7, first: 13 }, 2 * 3, 3, 100, 0.5);
        for (question, row) in [(3, 0), (3, 2), (4, 1)] {
            assert_eq!(whole.row(question * 4 + row), part.row((question - 3) * 3 + row));
        }
    }

    /// The fraction that is kept is never rounded to zero.
    #[test]
    fn scales_are_finite() {
        for p in [0.999, 0.999_995, 1.0 - f64::EPSILON] {
            let scale = DropoutMasks::draw(seed(1), 1, 1, LANES, p).scale;
            assert!(scale.is_finite() && scale > 900.0, "{p}: {scale}");
        }
    }

    /// The right fraction is kept, and neighbouring entries, rows and seeds are independent.
    #[test]
    fn masks_are_random() {
        const N: usize = 1 << 16;
        let rows: Vec<Vec<bool>> = [1, 2, 3 << 40]
            .iter()
            .flat_map(|&seed| {
                let masks = DropoutMasks::draw(self::seed(seed), 3, 2, N, 0.2);
                assert!((masks.scale - 1.25).abs() < 1e-4);
                (0..3).map(move |row| (0..N).map(|i| masks.row(row)[i / LANES] >> (i % LANES) & 1 != 0).collect())
            })
            .collect();
        // Five standard deviations.
        let near = |share: f64, p: f64| (share - p).abs() < 5.0 * (p * (1.0 - p) / N as f64).sqrt();
        let share = |kept: &mut dyn Iterator<Item = bool>| kept.filter(|&kept| kept).count() as f64 / N as f64;
        for (i, row) in rows.iter().enumerate() {
            assert!(near(share(&mut row.iter().copied()), 0.8));
            for distance in [1, 2, 16, 32, 512] {
                let shifted = row.iter().cycle().skip(distance);
                assert!(near(share(&mut row.iter().zip(shifted).map(|(a, b)| *a && *b)), 0.64), "{distance}");
            }
            for other in &rows[..i] {
                assert!(near(share(&mut row.iter().zip(other).map(|(a, b)| *a && *b)), 0.64));
            }
        }
    }
}
