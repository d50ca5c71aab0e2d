//! What makes regions of pictures.

use image::RgbImage;

use crate::error::{Error, Result};
use crate::features::extractor_info::ExtractorInfo;
use crate::features::finite::all_finite;
use crate::features::source::ImageRegions;

/// What makes regions of pictures: the cells of a grid, a network's map, a detector. Implement it to extract with a
/// network of your own; `Extraction` writes what it makes to a feature file.
///
/// A picture takes two steps: [`Extractor::prepare`], of one picture, which threads call side by side, and
/// [`Extractor::extract`], of a batch, which one thread calls while the others prepare what comes next.
pub trait Extractor: Send + Sync {
    /// All that two files must have in common to be mixed. It travels with the features into checkpoints, and must be
    /// enough to make the same extractor again.
    fn info(&self) -> ExtractorInfo;

    /// Length D of a region's feature vector.
    fn feature_dim(&self) -> usize;

    /// How many regions a picture has.
    fn n_regions(&self) -> RegionCount;

    /// The smallest width and height of a picture, in pixels.
    fn min_size(&self) -> [u32; 2] {
        [1, 1]
    }

    /// How many pictures [`Extractor::extract`] takes best at once. What it makes of a picture must not depend on it.
    fn batch_size(&self) -> usize {
        16
    }

    /// All that can be done of one upright picture alone: resizing it, as a rule.
    ///
    /// # Errors
    ///
    /// What is wrong with the picture, in words that follow its name.
    fn prepare(&self, picture: &RgbImage) -> Result<Prepared, String>;

    /// The regions of each picture, in order.
    ///
    /// # Errors
    ///
    /// When memory is full, or a network fails on a picture. Whoever calls knows the pictures' names, and can ask about
    /// one after the other.
    fn extract(&self, pictures: &[Prepared]) -> Result<Vec<ImageRegions>>;

    /// The regions of one upright picture.
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
    /// Done already: an extractor that has no second step.
    Regions(ImageRegions),
}

/// How many regions pictures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionCount {
    /// Every picture as many.
    Fixed(usize),
    /// A detector's: one picture more than another, but none more than this.
    AtMost(usize),
}

impl RegionCount {
    /// The most regions of a picture.
    pub fn most(self) -> usize {
        match self {
            RegionCount::Fixed(n) | RegionCount::AtMost(n) => n,
        }
    }
}

/// What is wrong with the regions that an extractor made of a picture, in words that follow the picture's name.
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
