//! Sources of regions.

use crate::error::Result;
use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;

/// The regions of an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageRegions {
    /// [K, D].
    pub features: Vec<f32>,
    /// [K, 4]: x1 y1 x2 y2 in pixels.
    pub boxes: Vec<f32>,
}

impl ImageRegions {
    /// The boxes one by one: x1 y1 x2 y2 in pixels.
    pub fn corners(&self) -> impl Iterator<Item = [f32; 4]> + '_ {
        self.boxes.chunks_exact(4).map(|corners| [corners[0], corners[1], corners[2], corners[3]])
    }
}

/// A source of regions. Implement it to train on features from elsewhere; `FeatureFile` is the one for HDF5 files.
///
/// Images are addressed by *row*, an index below [`RegionSource::n_images`].
pub trait RegionSource: Send + Sync {
    /// A name for messages: a file path, say.
    fn name(&self) -> String;

    /// Number of images.
    fn n_images(&self) -> usize;

    /// Length D of a region's feature vector.
    fn feature_dim(&self) -> usize;

    /// The row of an image, if the source has it.
    fn row(&self, image_id: u64) -> Option<usize>;

    /// Number of regions of the image in `row`.
    fn n_regions(&self, row: usize) -> usize;

    /// A type that holds the features exactly.
    fn element_type(&self) -> ElementType {
        ElementType::F32
    }

    /// How the regions were extracted, if known. Features that are known to be extracted differently are not mixed.
    fn extractor(&self) -> Option<&ExtractorInfo> {
        None
    }

    /// Tells the source that the image in `row` will be read soon, so that it can fetch it in the background. Returns
    /// at once.
    fn prefetch(&self, row: usize) {
        let _ = row;
    }

    /// Reads the image in `row`: `features` is [n_regions, D], `boxes` is [n_regions, 4] as x1 y1 x2 y2 in pixels.
    ///
    /// # Errors
    ///
    /// When the source cannot be read, or a feature is NaN or infinite.
    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> Result<()>;

    /// Reads the regions of the image in `row` into newly allocated memory.
    ///
    /// # Errors
    ///
    /// Those of [`RegionSource::read`].
    fn regions(&self, row: usize) -> Result<ImageRegions> {
        let n = self.n_regions(row);
        let mut regions = ImageRegions { features: vec![0.0; n * self.feature_dim()], boxes: vec![0.0; n * 4] };
        self.read(row, &mut regions.features, &mut regions.boxes)?;
        Ok(regions)
    }
}
