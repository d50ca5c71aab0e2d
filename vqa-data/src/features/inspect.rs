use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::Result;
use crate::features::extractor_info::ExtractorInfo;
use crate::features::file::FeatureFile;
use crate::features::finite::all_finite;
use crate::features::source::RegionSource;

/// A summary of a feature file, from a pass over all of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeatureSummary {
    /// Shape of `image_features`.
    pub shape: Vec<usize>,
    /// Its element type: "float32", "float16" …
    pub dtype: String,
    /// Element type and layout, and how it is read, as text.
    pub layout: String,
    /// How the regions were extracted, if the file says so.
    pub extractor: Option<ExtractorInfo>,
    /// Number of images N.
    pub n_images: usize,
    /// Length of a feature vector, D.
    pub feature_dim: usize,
    /// Fewest regions of an image.
    pub min_regions: usize,
    /// Most regions of an image.
    pub max_regions: usize,
    /// Regions of an image on average.
    pub mean_regions: f64,
    /// Smallest finite value.
    pub min: f32,
    /// Largest finite value.
    pub max: f32,
    /// Mean of the finite values.
    pub mean: f64,
    /// Images with a NaN or infinite value.
    pub n_not_finite: usize,
    /// The id of the first of them, if any.
    pub first_not_finite: Option<u64>,
    /// Images whose features are all zero.
    pub n_zero: usize,
    /// Regions whose features are all zero, those of such images included: padding, or a detector that failed.
    pub n_zero_regions: usize,
    /// Smallest image id.
    pub min_image_id: Option<u64>,
    /// Largest image id.
    pub max_image_id: Option<u64>,
    /// How fast images are read in random order and on all cores, as for training, measured before the pass. Images
    /// that are not in the page cache come from the disk.
    pub load_speed: Option<LoadSpeed>,
}

/// How fast images are read in random order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadSpeed {
    /// Images per second.
    pub images_per_s: f64,
    /// Bytes of the file per second.
    pub bytes_per_s: f64,
    /// How many images this was measured on.
    pub n_images: usize,
}

/// The part of a summary that is computed from the values of some of the images.
#[derive(Clone, Copy)]
struct Values {
    min: f32,
    max: f32,
    sum: f64,
    n: usize,
    n_not_finite: usize,
    first_not_finite: Option<usize>,
    n_zero: usize,
    n_zero_regions: usize,
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
        n_zero_regions: 0,
    };

    fn of_image(row: usize, features: &[f32], dim: usize) -> Values {
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
        let is_zero = |region: &&[f32]| region.iter().fold(true, |zero, &x| zero & (x == 0.0));
        values.n_zero_regions = features.chunks_exact(dim.max(1)).filter(is_zero).count();
        values.n_zero = usize::from(values.n_zero_regions > 0 && values.n_zero_regions * dim == features.len());
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
            n_zero_regions: self.n_zero_regions + other.n_zero_regions,
        }
    }
}

impl FeatureFile {
    /// Reads the whole file and summarises it. `progress` is called with the number of images just done.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn summarize(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<FeatureSummary> {
        let dim = self.feature_dim();
        let load_speed = self.measure_load_speed();
        let counts = || (0..self.n_images()).map(|row| self.n_regions(row));
        let values = (0..self.n_images())
            .into_par_iter()
            .with_min_len(16)
            .map_init(Vec::new, |buffer, row| {
                buffer.resize(self.n_regions(row) * dim, 0.0);
                self.read_features(row, buffer)?;
                progress(1);
                Ok(Values::of_image(row, buffer, dim))
            })
            .try_reduce(|| Values::NONE, |a, b| Ok(a.merge(b)))?;
        Ok(FeatureSummary {
            shape: self.shape().to_vec(),
            dtype: self.dtype(),
            layout: self.layout(),
            extractor: self.extractor().cloned(),
            n_images: self.n_images(),
            feature_dim: dim,
            min_regions: counts().min().unwrap_or(0),
            max_regions: counts().max().unwrap_or(0),
            mean_regions: counts().sum::<usize>() as f64 / self.n_images().max(1) as f64,
            min: values.min,
            max: values.max,
            mean: values.sum / values.n.max(1) as f64,
            n_not_finite: values.n_not_finite,
            first_not_finite: values.first_not_finite.map(|row| self.image_ids()[row]),
            n_zero: values.n_zero,
            n_zero_regions: values.n_zero_regions,
            min_image_id: self.image_ids().iter().min().copied(),
            max_image_id: self.image_ids().iter().max().copied(),
            load_speed,
        })
    }

    /// Reads images in random order for a moment. Returns `None` if there are too few to measure, or they cannot be
    /// read.
    fn measure_load_speed(&self) -> Option<LoadSpeed> {
        const IMAGES_AT_A_TIME: usize = 64;
        const LONG_ENOUGH: Duration = Duration::from_millis(300);
        let mut rows: Vec<usize> = (0..self.n_images()).collect();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
        let started = Instant::now();
        let (mut n_images, mut bytes) = (0, 0);
        for rows in rows.chunks(IMAGES_AT_A_TIME) {
            let read = rows.par_iter().map_init(Vec::new, |buffer, &row| {
                buffer.resize(self.n_regions(row) * self.feature_dim(), 0.0);
                self.read_features(row, buffer).map(|()| buffer.len() * self.element_size())
            });
            bytes += read.try_reduce(|| 0, |a, b| Ok(a + b)).ok()?;
            n_images += rows.len();
            if started.elapsed() > LONG_ENOUGH {
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let speed =
            LoadSpeed { images_per_s: n_images as f64 / seconds, bytes_per_s: bytes as f64 / seconds, n_images };
        (n_images >= IMAGES_AT_A_TIME).then_some(speed)
    }
}
