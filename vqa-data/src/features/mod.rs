//! Region features in HDF5 files.

mod file;
mod image_ids;
mod inspect;
mod store;
mod writer;

pub use file::FeatureFile;
pub use inspect::FeatureSummary;
pub use writer::{ElementType, FeatureWriter, FeatureWriterSpec, ImageRegions, RegionCount};

use crate::Result;

/// Where regions come from. Implement it to train on features of your own making; [`FeatureFile`] is the one
/// for HDF5 files.
///
/// Images are addressed by *row*, an index below [`RegionSource::n_images`].
pub trait RegionSource: Send + Sync {
    /// A name for messages: a file path, say.
    fn name(&self) -> String;

    /// Number of images.
    fn n_images(&self) -> usize;

    /// Length D of a region's feature vector.
    fn feature_dim(&self) -> usize;

    /// The row of an image, if it is there.
    fn row(&self, image_id: u64) -> Option<usize>;

    /// Number of regions of the image in `row`.
    fn n_regions(&self, row: usize) -> usize;

    /// Reads the image in `row`: `features` is [n_regions, D], `boxes` is [n_regions, 4] as x1 y1 x2 y2 in pixels.
    ///
    /// # Errors
    ///
    /// When the source cannot be read, or a feature is NaN or infinite.
    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> Result<()>;
}
