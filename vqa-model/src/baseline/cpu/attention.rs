//! Attention over regions, without a product of the size [B, K, H] in memory.

use rayon::prelude::*;
use tch::Tensor;
use vqa_data::random::split_mix_64;

use crate::baseline::cpu::kernels;
use crate::baseline::cpu::kernels::LANES;
use crate::baseline::cpu::slice::{Number, filled, numbers};

/// For each question and region, which places of their product dropout keeps, as bits: [B, K, H / 16].
pub(super) struct Masks {
    bits: Vec<u16>,
    /// Words of bits of a row.
    n: usize,
    /// What the kept are multiplied by.
    pub(super) scale: f32,
}

impl Masks {
    /// Draws masks of `rows` rows of `len` places, each dropped with probability `p`. They depend on the seed alone.
    pub(super) fn draw(seed: u64, rows: usize, len: usize, p: f64) -> Masks {
        let n = len.div_ceil(LANES);
        let mut bits = vec![0; rows * n];
        let threshold = ((1.0 - p) * 65_536.0).round() as u32;
        bits.par_chunks_mut(n).enumerate().for_each(|(row, mask)| {
            kernels::draw_mask(split_mix_64(seed ^ split_mix_64(row as u64)), threshold, mask);
        });
        Masks { bits, n, scale: (65_536.0 / f64::from(threshold)) as f32 }
    }

    pub(super) fn row(&self, row: usize) -> &[u16] {
        &self.bits[row * self.n..][..self.n]
    }
}

/// Questions about images: the sizes, and who asks about what.
pub(super) struct Asked<'a> {
    /// [B]
    pub(super) image_rows: &'a [i64],
    pub(super) n_images: usize,
    /// K
    pub(super) n_regions: usize,
}

impl Asked<'_> {
    fn n_questions(&self) -> usize {
        self.image_rows.len()
    }

    /// The rows of the image that question `b` is about, of a tensor [N, K, dim].
    fn rows<'a, T>(&self, regions: &'a [T], dim: usize, b: usize) -> std::slice::ChunksExact<'a, T> {
        let len = self.n_regions * dim;
        regions[self.image_rows[b] as usize * len..][..len].chunks_exact(dim)
    }

    /// For each region of each question's image, its product with the question's row, [B, K] float32: regions [N, K, dim],
    /// questions [B, dim] float32, only the places that the masks keep.
    pub(super) fn dots<T: Number>(&self, regions: &Tensor, questions: &Tensor, masks: Option<&Masks>) -> Tensor {
        let k = self.n_regions;
        let dim = questions.size()[1] as usize;
        let (regions, questions) = (numbers::<T>(regions), numbers::<f32>(questions));
        filled::<f32>(&[self.n_questions() as i64, k as i64], |dots| {
            dots.par_chunks_mut(k).enumerate().for_each(|(b, dots)| {
                let question = &questions[b * dim..][..dim];
                for (j, (dot, region)) in dots.iter_mut().zip(self.rows(regions, dim, b)).enumerate() {
                    *dot = match masks {
                        Some(masks) => kernels::masked_dot(masks.row(b * k + j), region, question),
                        None => kernels::dot(region, question),
                    };
                }
            });
        })
    }

    /// For each question, the regions of its image added up by these weights, [B, dim] float32: regions [N, K, dim], weights
    /// [B, K], only the places that the masks keep.
    pub(super) fn weighted_sums<T: Number>(&self, regions: &Tensor, weights: &Tensor, masks: Option<&Masks>) -> Tensor {
        let k = self.n_regions;
        let dim = regions.size()[2] as usize;
        let (regions, weights) = (numbers::<T>(regions), numbers::<f32>(weights));
        filled::<f32>(&[self.n_questions() as i64, dim as i64], |sums| {
            sums.par_chunks_mut(dim).enumerate().for_each(|(b, sum)| {
                sum.fill(0.0);
                let weights = &weights[b * k..][..k];
                for (j, (&weight, region)) in weights.iter().zip(self.rows(regions, dim, b)).enumerate() {
                    match masks {
                        Some(masks) => kernels::add_masked(sum, weight, masks.row(b * k + j), region),
                        None => kernels::add_scaled(sum, weight, region),
                    }
                }
            });
        })
    }

    /// For each region of each image, the rows of the questions about it added up by these weights, [N, K, dim]: questions
    /// [B, dim] float32, weights [B, K], only the places that the masks keep.
    pub(super) fn sums_over_questions<T: Number>(
        &self,
        questions: &Tensor,
        weights: &Tensor,
        masks: Option<&Masks>,
    ) -> Tensor {
        let k = self.n_regions;
        let dim = questions.size()[1] as usize;
        let mut asked = vec![Vec::new(); self.n_images];
        self.image_rows.iter().enumerate().for_each(|(b, &image)| asked[image as usize].push(b));
        let (questions, weights) = (numbers::<f32>(questions), numbers::<f32>(weights));
        filled::<T>(&[self.n_images as i64, k as i64, dim as i64], |sums| {
            sums.par_chunks_mut(k * dim).zip(asked).for_each_init(
                || vec![0f32; dim],
                |sum, (rows, asked)| {
                    for (j, row) in rows.chunks_exact_mut(dim).enumerate() {
                        sum.fill(0.0);
                        for &b in &asked {
                            let (weight, question) = (weights[b * k + j], &questions[b * dim..][..dim]);
                            match masks {
                                Some(masks) => kernels::add_masked(sum, weight, masks.row(b * k + j), question),
                                None => kernels::add_scaled(sum, weight, question),
                            }
                        }
                        kernels::scaled(sum, 1.0, row);
                    }
                },
            );
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share that is kept; and neighbours, rows and seeds that know nothing of each other.
    #[test]
    fn masks_are_random() {
        const N: usize = 1 << 16;
        let rows: Vec<Vec<bool>> = [1, 2, 3 << 40]
            .iter()
            .flat_map(|&seed| {
                let masks = Masks::draw(seed, 3, N, 0.2);
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
