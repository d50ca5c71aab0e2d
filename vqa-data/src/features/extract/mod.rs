//! Region features without a detector: images are cut into the cells of a [`Grid`], and a cell's standardised pixels
//! are its feature vector.
//!
//! [`list_images`] finds the images of a folder and [`ChannelStats::measure`] their mean and deviation; an
//! [`Extraction`] writes the feature file.

pub(crate) mod channel_stats;
#[cfg(feature = "hdf5")]
pub(crate) mod extraction;
pub(crate) mod grid;
pub(crate) mod images;
#[cfg(feature = "hdf5")]
pub(crate) mod like;

#[cfg(feature = "hdf5")]
pub use self::extraction::Extraction;
pub use self::{
    channel_stats::ChannelStats,
    grid::Grid,
    images::{ImageFile, list_images, read_image, read_image_size},
};
