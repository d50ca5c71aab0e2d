use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::batches::buffer::{Buffer, BufferPool};
use crate::batches::dataset::Dataset;
use crate::error::Result;
use crate::questions::soft_targets::SoftTargets;

/// A batch of questions and the regions of their images, in host memory.
///
/// B questions ask about N distinct images of at most K regions each. An image is stored once, however many questions
/// ask about it; [`Batch::image_rows`] maps questions to images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `[B]` The questions' indices in the dataset.
    pub questions: Vec<usize>,
    /// `[B]` The questions' ids.
    pub question_ids: Vec<u64>,
    /// `[B]` The ids of the questions' images.
    pub image_ids: Vec<u64>,
    /// [B, max_len], padded in front.
    pub tokens: Vec<i64>,
    /// Number of tokens of a question.
    pub max_len: usize,
    /// The soft targets of the B questions.
    pub targets: SoftTargets,
    /// `[N]` The images' indices among the distinct images of the dataset.
    pub images: Vec<usize>,
    /// [N, K, D], zero past an image's last region; empty if the loader was told to leave features out.
    pub features: Buffer,
    /// [N, K, 4] x1 y1 x2 y2 in pixels, zero past an image's last region; empty if the features are.
    pub boxes: Vec<f32>,
    /// `[N]` The number of regions of each image.
    pub n_regions: Vec<usize>,
    /// `[B]` For each question, which of the N images it is about.
    pub image_rows: Vec<i64>,
    /// K, the most regions of an image in this batch, but at least 1.
    pub max_regions: usize,
    /// D, the length of a feature vector.
    pub feature_dim: usize,
    /// Index of the first question in the full batch that this one is part of; 0 if this is the full batch.
    pub first: usize,
    /// Sizes of the full batch that this one is part of; its own if this is the full batch.
    pub whole: FullBatch,
}

/// Sizes of a full batch, before it is split between processes or into parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FullBatch {
    /// Number of questions.
    pub n_questions: usize,
    /// Number of questions with a candidate among their answers.
    pub n_with_candidate: usize,
}

impl Batch {
    /// Gathers the questions at these indices of the dataset, reading the images in parallel.
    ///
    /// # Errors
    ///
    /// When features cannot be read, or are NaN or infinite.
    pub fn gather(dataset: &Dataset, questions: &[usize]) -> Result<Batch> {
        Batch::gather_share(&BufferPool::new(0), dataset, questions, 0..questions.len(), true)
    }

    /// Like [`Batch::gather`], but for a share of a batch, with memory from a pool, and optionally without features and
    /// boxes.
    pub(crate) fn gather_share(
        pool: &Arc<BufferPool>,
        dataset: &Dataset,
        whole: &[usize],
        share: Range<usize>,
        features: bool,
    ) -> Result<Batch> {
        let encoded = dataset.encoded();
        let (first, questions, max_len) = (share.start, &whole[share], encoded.max_len);
        let has_candidate = |&&question: &&usize| encoded.targets.best(question) > 0.0;
        let mut batch = Batch {
            questions: questions.to_vec(),
            max_len,
            feature_dim: dataset.feature_dim(),
            first,
            whole: FullBatch { n_questions: whole.len(), n_with_candidate: whole.iter().filter(has_candidate).count() },
            ..Batch::default()
        };
        let mut images = Vec::new();
        let mut rows = HashMap::new();
        for &i in questions {
            let question = &dataset.split().questions[i];
            batch.question_ids.push(question.question_id);
            batch.image_ids.push(question.image_id);
            batch.tokens.extend_from_slice(&dataset.encoded().tokens[i * max_len..(i + 1) * max_len]);
            batch.targets.push(dataset.encoded().targets.of(i));
            let location = dataset.location(i);
            let row = *rows.entry(location).or_insert_with(|| {
                images.push(location);
                batch.images.push(dataset.image(i));
                images.len() - 1
            });
            batch.image_rows.push(row as i64);
        }
        let n_regions = |location| dataset.source(location).n_regions(location.row as usize);
        batch.n_regions = images.iter().map(|&location| n_regions(location)).collect();
        // At least one, which is padding where no image has any, so that every batch is computed in the same way.
        batch.max_regions = batch.n_regions.iter().copied().max().unwrap_or(0).max(1);
        if !features {
            return Ok(batch);
        }

        let (k, dim) = (batch.max_regions, batch.feature_dim);
        batch.features = pool.take(images.len() * k * dim);
        batch.boxes = vec![0.0; images.len() * k * 4];
        // A chunk length of 0 would panic.
        if k * dim > 0 {
            batch
                .features
                .par_chunks_mut(k * dim)
                .zip(batch.boxes.par_chunks_mut(k * 4))
                .zip(&images)
                .zip(&batch.n_regions)
                .try_for_each(|(((features, boxes), &location), &n)| {
                    let source = dataset.source(location);
                    features[n * dim..].fill(0.0);
                    source.read(location.row as usize, &mut features[..n * dim], &mut boxes[..n * 4])
                })?;
        }
        Ok(batch)
    }

    /// Splits the batch into at most `n` parts of about equal size, each with only the images that its questions are
    /// about. An empty batch has no parts.
    pub fn parts(self, n: usize) -> Vec<Batch> {
        if self.is_empty() {
            return Vec::new();
        }
        if n <= 1 || self.len() == 1 {
            return vec![self];
        }
        let len = self.len().div_ceil(n);
        (0..self.len()).step_by(len).map(|start| self.part(start..self.len().min(start + len))).collect()
    }

    fn part(&self, range: Range<usize>) -> Batch {
        let mut images = Vec::new();
        let mut new_rows = vec![None; self.n_images()];
        let new_row = |&image: &i64| {
            *new_rows[image as usize].get_or_insert_with(|| {
                images.push(image as usize);
                images.len() as i64 - 1
            })
        };
        let image_rows = self.image_rows[range.clone()].iter().map(new_row).collect();
        let of_images = |values: &[f32], len: usize| -> Vec<f32> {
            // Empty if features are left out.
            let of = |&image: &usize| values.get(image * len..(image + 1) * len).unwrap_or_default();
            images.iter().flat_map(of).copied().collect()
        };
        let mut targets = SoftTargets::default();
        range.clone().for_each(|i| targets.push(self.targets.of(i)));
        Batch {
            questions: self.questions[range.clone()].to_vec(),
            question_ids: self.question_ids[range.clone()].to_vec(),
            image_ids: self.image_ids[range.clone()].to_vec(),
            tokens: self.tokens[range.start * self.max_len..range.end * self.max_len].to_vec(),
            targets,
            features: of_images(&self.features, self.max_regions * self.feature_dim).into(),
            boxes: of_images(&self.boxes, self.max_regions * 4),
            images: images.iter().map(|&image| self.images[image]).collect(),
            n_regions: images.iter().map(|&image| self.n_regions[image]).collect(),
            image_rows,
            first: self.first + range.start,
            ..*self
        }
    }

    /// Number of questions, B.
    pub fn len(&self) -> usize {
        self.question_ids.len()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.question_ids.is_empty()
    }

    /// Number of distinct images, N.
    pub fn n_images(&self) -> usize {
        self.n_regions.len()
    }

    /// The boxes of the image that question `i` of the batch is about: x1 y1 x2 y2 in pixels each.
    pub fn boxes_of(&self, i: usize) -> impl Iterator<Item = [f32; 4]> + '_ {
        let image = self.image_rows[i] as usize;
        let first = image * self.max_regions * 4;
        self.boxes[first..first + self.n_regions[image] * 4]
            .chunks_exact(4)
            .map(|corners| [corners[0], corners[1], corners[2], corners[3]])
    }
}
