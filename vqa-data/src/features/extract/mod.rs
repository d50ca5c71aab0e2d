//! Region features without a detector: images are cut into the cells of a [`Grid`], and a cell's standardised pixels
//! are its feature vector.
//!
//! [`list_images`] finds the images of a folder and [`ChannelStats::measure`] their mean and deviation; an
//! [`Extraction`] writes the feature file. An [`ImageFolder`] does without the images that cannot be used.

pub(crate) mod channel_stats;
mod decoding_memory;
#[cfg(feature = "hdf5")]
pub(crate) mod extraction;
pub(crate) mod grid;
pub(crate) mod image_file;
pub(crate) mod image_folder;
mod jpeg;
mod jpeg_scan;
pub(crate) mod left_out;
#[cfg(feature = "hdf5")]
pub(crate) mod like;
pub(crate) mod read_image;

#[cfg(feature = "hdf5")]
pub use self::extraction::Extraction;
pub use self::{
    channel_stats::ChannelStats,
    grid::Grid,
    image_file::ImageFile,
    image_folder::{ImageFolder, list_images},
    left_out::LeftOut,
    read_image::{read_image, read_image_size, read_upright_jpeg},
};
