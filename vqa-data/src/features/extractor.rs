//! Extractors, which turn pictures into regions.

use image::RgbImage;

use crate::error::{Error, Result};
use crate::features::extractor_info::ExtractorInfo;
use crate::features::finite::all_finite;
use crate::features::source::ImageRegions;

/// Turns pictures into regions: the cells of a grid, a network's map, a detector's boxes. Implement it to extract with
/// a network of your own; `Extraction` writes the regions to a feature file.
///
/// Each picture takes two steps. [`Extractor::prepare`] takes a single picture, and is called by several threads at
/// once; [`Extractor::extract`] takes a batch, and is called by one thread while the others prepare the next pictures.
pub trait Extractor: Send + Sync {
    /// Describes everything that two files must have in common for their features to be mixed. It is stored with the
    /// features and in checkpoints, and must be enough to build the same extractor again.
    fn info(&self) -> ExtractorInfo;

    /// Length D of a region's feature vector.
    fn feature_dim(&self) -> usize;

    /// How many regions a picture has.
    fn n_regions(&self) -> RegionCount;

    /// The smallest width and height of a picture, in pixels.
    fn min_size(&self) -> [u32; 2] {
        [1, 1]
    }

    /// The number of pictures that [`Extractor::extract`] handles best at once. Its result for a picture must not
    /// depend on it.
    fn batch_size(&self) -> usize {
        16
    }

    /// Does whatever can be done with one upright picture alone, usually resizing it.
    ///
    /// # Errors
    ///
    /// What is wrong with the picture, as a text that follows its name.
    fn prepare(&self, picture: &RgbImage) -> Result<Prepared, String>;

    /// Extracts the regions of each picture, in order.
    ///
    /// # Errors
    ///
    /// When memory is full, which should be an [`Error::Transient`](crate::Error::Transient), or a network fails on a
    /// picture. The error need not say which: the caller knows the pictures' names, and can try them one by one.
    fn extract(&self, pictures: &[Prepared]) -> Result<Vec<ImageRegions>>;

    /// Extracts the regions of one upright picture.
    ///
    /// # Errors
    ///
    /// When the picture cannot be prepared or extracted, or a feature is NaN or infinite.
    fn regions(&self, picture: &RgbImage) -> Result<ImageRegions> {
        let prepared = self.prepare(picture).map_err(|problem| Error::invalid(format!("the picture: {problem}")))?;
        let regions = self.extract(&[prepared])?.pop().unwrap_or_default();
        match problem_of(&regions) {
            Some(problem) => Err(Error::invalid(format!("the picture: {problem}"))),
            None => Ok(regions),
        }
    }
}

/// A picture between the two steps of an [`Extractor`].
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    /// Resized for a network.
    Pixels {
        /// The resized picture.
        pixels: RgbImage,
        /// Width and height of the upright picture, in pixels.
        size: [u32; 2],
    },
    /// Regions already: the extractor has no second step.
    Regions(ImageRegions),
}

/// How many regions pictures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionCount {
    /// The same number for every picture.
    Fixed(usize),
    /// A number that differs between pictures, as a detector's does, but is never larger than this.
    AtMost(usize),
}

impl RegionCount {
    /// The most regions that a picture can have.
    pub fn most(self) -> usize {
        match self {
            RegionCount::Fixed(n) | RegionCount::AtMost(n) => n,
        }
    }
}

/// Returns what is wrong with the regions extracted from a picture, if anything, as a text that follows the picture's
/// name.
pub(crate) fn problem_of(regions: &ImageRegions) -> Option<String> {
    let ImageRegions { features, boxes } = regions;
    if boxes.is_empty() {
        return Some("the detector finds nothing in it: lower its score threshold, or leave it out".to_owned());
    }
    let is_sound = all_finite(features) && all_finite(boxes);
    (!is_sound).then(|| {
        "its features are NaN or infinite: these weights, or their preprocessing (--mean, --deviation), do not fit the \
         network"
            .to_owned()
    })
}
