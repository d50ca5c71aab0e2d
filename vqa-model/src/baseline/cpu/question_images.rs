//! Products of questions with the regions of their images, without a tensor of the size [B, K, dim].

use rayon::prelude::*;
use tch::Tensor;

use crate::baseline::cpu::kernels;
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::slice::{Number, from_rows, from_zeros, values};
use crate::baseline::cpu::sums::add_rows;

/// Which of N images, of K regions each, each of B questions is about.
pub(super) struct QuestionImages {
    image_rows: Vec<i64>, // [B]
    n_images: usize,
    n_regions: usize,
}

/// Masks drop entries of the [B K, dim] products of a question's row with a region's. All sums are in float32.
impl QuestionImages {
    pub(super) fn new(image_rows: Vec<i64>, n_images: usize, n_regions: usize) -> QuestionImages {
        QuestionImages { image_rows, n_images, n_regions }
    }

    /// Pairs of a question and a region of its image, B K.
    pub(super) fn n_pairs(&self) -> usize {
        self.image_rows.len() * self.n_regions
    }

    /// The regions of the image of question `b`, from those of all images, [N, K, dim].
    fn regions_of<'a, T>(&self, regions: &'a [T], dim: usize, b: usize) -> std::slice::ChunksExact<'a, T> {
        let len = self.n_regions * dim;
        regions[self.image_rows[b] as usize * len..][..len].chunks_exact(dim)
    }

    /// Dot products, [B, K] float32, of each question's row with each region of its image: regions [N, K, dim],
    /// questions [B, dim] float32.
    pub(super) fn dots<T: Number>(&self, regions: &Tensor, questions: &Tensor, masks: Option<&DropoutMasks>) -> Tensor {
        let k = self.n_regions;
        let dim = questions.size()[1] as usize;
        let (regions, questions) = (values::<T>(regions), values::<f32>(questions));
        from_zeros::<f32>(&[self.image_rows.len() as i64, k as i64], |dots| {
            dots.par_chunks_mut(k).enumerate().for_each(|(b, dots)| {
                let question = &questions[b * dim..][..dim];
                for (j, (dot, region)) in dots.iter_mut().zip(self.regions_of(regions, dim, b)).enumerate() {
                    *dot = match masks {
                        Some(masks) => kernels::masked_dot(masks.row(b * k + j), region, question),
                        None => kernels::dot(region, question),
                    };
                }
            });
        })
    }

    /// Weighted sums, [B, dim] float32, of the regions of each question's image: regions [N, K, dim], weights [B, K].
    pub(super) fn weighted_sums<T: Number>(
        &self,
        regions: &Tensor,
        weights: &Tensor,
        masks: Option<&DropoutMasks>,
    ) -> Tensor {
        let k = self.n_regions;
        let dim = regions.size()[2] as usize;
        let (regions, weights) = (values::<T>(regions), values::<f32>(weights));
        from_zeros::<f32>(&[self.image_rows.len() as i64, dim as i64], |sums| {
            sums.par_chunks_mut(dim).enumerate().for_each(|(b, sum)| {
                let regions = &regions[self.image_rows[b] as usize * k * dim..][..k * dim];
                add_rows(sum, 0..k, &|sum, j| {
                    let region = &regions[j * dim..][..dim];
                    add(sum, weights[b * k + j], region, masks.map(|masks| masks.row(b * k + j)));
                });
            });
        })
    }

    /// Weighted sums, [N, K, dim], for each region of each image over the questions about that image: questions
    /// [B, dim] float32, weights [B, K].
    pub(super) fn sums_over_questions<T: Number>(
        &self,
        questions: &Tensor,
        weights: &Tensor,
        masks: Option<&DropoutMasks>,
    ) -> Tensor {
        let k = self.n_regions;
        let dim = questions.size()[1] as usize;
        let mut questions_of = vec![Vec::new(); self.n_images];
        self.image_rows.iter().enumerate().for_each(|(b, &image)| questions_of[image as usize].push(b));
        let (questions, weights) = (values::<f32>(questions), values::<f32>(weights));
        from_rows::<T>(&[self.n_images as i64, k as i64, dim as i64], dim, |row, into| {
            let (image, j) = (row / k, row % k);
            let mut sum = vec![0f32; dim];
            let about = &questions_of[image];
            add_rows(&mut sum, 0..about.len(), &|sum, i| {
                let b = about[i];
                let question = &questions[b * dim..][..dim];
                add(sum, weights[b * k + j], question, masks.map(|masks| masks.row(b * k + j)));
            });
            kernels::write_scaled(into, 1.0, &sum)
        })
    }
}

/// Adds a row, times its weight, to a sum: of a row with a mask, the entries that the mask keeps.
fn add<T: Number>(sum: &mut [f32], weight: f32, row: &[T], mask: Option<&[u16]>) {
    match mask {
        Some(mask) => kernels::add_masked(sum, weight, mask, row),
        None => kernels::add_scaled(sum, weight, row),
    }
}
