use rayon::prelude::*;
use serde::Serialize;

use super::file::all_finite;
use super::{FeatureFile, RegionSource};
use crate::Result;

/// What is in a feature file, from a pass over all of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeatureSummary {
    /// Shape of `image_features`.
    pub shape: Vec<usize>,
    /// Element type, layout and way of reading, in words.
    pub layout: String,
    /// Number of images N.
    pub n_images: usize,
    /// Length of a feature vector, D.
    pub feature_dim: usize,
    /// Fewest regions of an image.
    pub min_regions: usize,
    /// Most regions of an image.
    pub max_regions: usize,
    /// Smallest finite value.
    pub min: f32,
    /// Largest finite value.
    pub max: f32,
    /// Mean of the finite values.
    pub mean: f64,
    /// Images with a NaN or infinite value.
    pub n_not_finite: usize,
    /// The first of them, if any.
    pub first_not_finite: Option<u64>,
    /// Images whose features are all zero.
    pub n_zero: usize,
    /// Smallest image id.
    pub min_image_id: Option<u64>,
    /// Largest image id.
    pub max_image_id: Option<u64>,
}

/// The part of a summary that comes from some of the images.
#[derive(Clone, Copy)]
struct Values {
    min: f32,
    max: f32,
    sum: f64,
    n: usize,
    n_not_finite: usize,
    first_not_finite: Option<usize>,
    n_zero: usize,
}

impl Values {
    const NONE: Values = Values {
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        sum: 0.0,
        n: 0,
        n_not_finite: 0,
        first_not_finite: None,
        n_zero: 0,
    };

    fn of_image(row: usize, features: &[f32]) -> Values {
        let finite = all_finite(features);
        let mut values = Values::NONE;
        for &x in features.iter().filter(|x| finite || x.is_finite()) {
            values.min = values.min.min(x);
            values.max = values.max.max(x);
            values.sum += f64::from(x);
            values.n += 1;
        }
        values.n_not_finite = usize::from(!finite);
        values.first_not_finite = (!finite).then_some(row);
        values.n_zero = usize::from(finite && values.min == 0.0 && values.max == 0.0);
        values
    }

    fn merge(self, other: Values) -> Values {
        Values {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            sum: self.sum + other.sum,
            n: self.n + other.n,
            n_not_finite: self.n_not_finite + other.n_not_finite,
            first_not_finite: self.first_not_finite.or(other.first_not_finite),
            n_zero: self.n_zero + other.n_zero,
        }
    }
}

impl FeatureFile {
    /// Reads the whole file and sums it up. `progress` is called with the number of images just done.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn summarize(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<FeatureSummary> {
        let dim = self.feature_dim();
        let counts = || (0..self.n_images()).map(|row| self.n_regions(row));
        let values = (0..self.n_images())
            .into_par_iter()
            .with_min_len(16)
            .map_init(Vec::new, |buffer, row| {
                buffer.resize(self.n_regions(row) * dim, 0.0);
                self.read_features(row, buffer)?;
                progress(1);
                Ok(Values::of_image(row, buffer))
            })
            .try_reduce(|| Values::NONE, |a, b| Ok(a.merge(b)))?;
        Ok(FeatureSummary {
            shape: self.shape().to_vec(),
            layout: self.layout(),
            n_images: self.n_images(),
            feature_dim: dim,
            min_regions: counts().min().unwrap_or(0),
            max_regions: counts().max().unwrap_or(0),
            min: values.min,
            max: values.max,
            mean: values.sum / values.n.max(1) as f64,
            n_not_finite: values.n_not_finite,
            first_not_finite: values.first_not_finite.map(|row| self.image_ids()[row]),
            n_zero: values.n_zero,
            min_image_id: self.image_ids().iter().min().copied(),
            max_image_id: self.image_ids().iter().max().copied(),
        })
    }
}
