//! Sums and products over questions and the regions of their images, without a tensor of shape [B, K, dim].

use rayon::prelude::*;
use tch::Tensor;

use crate::baseline::cpu::sums::add_rows;
use crate::cpu::kernels;
use crate::cpu::slice::{Number, from_rows, from_zeros, values};

/// For each of B questions, which of N images with K regions each it is about.
pub(super) struct QuestionImages {
    image_rows: Vec<i64>, // [B]
    n_images: usize,
    n_regions: usize,
}

/// A question and a region of its image.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// Index among the B questions.
    pub(super) question: usize,
    /// Index among the N K regions of all images.
    pub(super) region: usize,
    /// Index among the B K pairs.
    pub(super) index: usize,
}

/// All sums are in float32.
impl QuestionImages {
    pub(super) fn new(image_rows: Vec<i64>, n_images: usize, n_regions: usize) -> QuestionImages {
        QuestionImages { image_rows, n_images, n_regions }
    }

    /// The number of regions of an image, K.
    pub(super) fn n_regions(&self) -> usize {
        self.n_regions
    }

    /// The number of pairs, B K.
    pub(super) fn n_pairs(&self) -> usize {
        self.image_rows.len() * self.n_regions
    }

    fn pair(&self, question: usize, j: usize) -> Pair {
        let k = self.n_regions;
        Pair { question, region: self.image_rows[question] as usize * k + j, index: question * k + j }
    }

    /// Computes a value for each pair, [B, K] float32.
    pub(super) fn scores(&self, score: impl Fn(Pair) -> f32 + Sync) -> Tensor {
        let k = self.n_regions;
        from_zeros::<f32>(&[self.image_rows.len() as i64, k as i64], |scores| {
            scores.par_chunks_mut(k).enumerate().for_each(|(question, scores)| {
                scores.iter_mut().enumerate().for_each(|(j, value)| *value = score(self.pair(question, j)));
            });
        })
    }

    /// Computes for each question the sum, [B, dim] float32, of what `add` adds for the regions of its image.
    pub(super) fn sums_over_regions(&self, dim: usize, add: impl Fn(&mut [f32], Pair) + Sync) -> Tensor {
        from_zeros::<f32>(&[self.image_rows.len() as i64, dim as i64], |sums| {
            sums.par_chunks_mut(dim).enumerate().for_each(|(question, sum)| {
                add_rows(sum, 0..self.n_regions, &|sum, j| add(sum, self.pair(question, j)));
            });
        })
    }

    /// Computes for each region of each image the sum, [N, K, dim], of what `add` adds for the questions about the
    /// image.
    pub(super) fn sums_over_questions<T: Number>(&self, dim: usize, add: impl Fn(&mut [f32], Pair) + Sync) -> Tensor {
        let k = self.n_regions;
        let mut questions_of = vec![Vec::new(); self.n_images];
        self.image_rows.iter().enumerate().for_each(|(b, &image)| questions_of[image as usize].push(b));
        from_rows::<T>(&[self.n_images as i64, k as i64, dim as i64], dim, |row, into| {
            let mut sum = vec![0f32; dim];
            let about = &questions_of[row / k];
            add_rows(&mut sum, 0..about.len(), &|sum, i| add(sum, self.pair(about[i], row % k)));
            kernels::write_scaled(into, 1.0, &sum)
        })
    }

    /// Computes the dot products, [B, K] float32, of each question's row with each region of its image, from regions
    /// [N, K, dim] and questions [B, dim] float32.
    pub(super) fn dots<T: Number>(&self, regions: &Tensor, questions: &Tensor) -> Tensor {
        let dim = questions.size()[1] as usize;
        let (regions, questions) = (values::<T>(regions), values::<f32>(questions));
        self.scores(|pair| kernels::dot(&regions[pair.region * dim..][..dim], &questions[pair.question * dim..][..dim]))
    }

    /// Computes the weighted sums, [B, dim] float32, of the regions of each question's image, from regions
    /// [N, K, dim] and weights [B, K].
    pub(super) fn weighted_sums<T: Number>(&self, regions: &Tensor, weights: &Tensor) -> Tensor {
        let dim = regions.size()[2] as usize;
        let (regions, weights) = (values::<T>(regions), values::<f32>(weights));
        self.sums_over_regions(dim, |sum, pair| {
            kernels::add_scaled(sum, weights[pair.index], &regions[pair.region * dim..][..dim]);
        })
    }
}
