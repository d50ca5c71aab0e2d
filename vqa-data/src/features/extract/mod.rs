//! Region features from image files: an [`Extraction`] runs an [`Extractor`](crate::features::Extractor) on them, and
//! writes the regions to a feature file.
//!
//! The extractor of this crate is a [`PixelGrid`]: images are cut into the cells of a [`Grid`], and a cell's
//! standardised pixels are its feature vector. [`list_images`] finds the images of a folder, and
//! [`ChannelStats::measure`] their mean and deviation. An [`ImageFolder`] sets aside the images that cannot be used.

pub(crate) mod channel_stats;
mod decoding_memory;
#[cfg(feature = "hdf5")]
pub(crate) mod extraction;
pub(crate) mod grid;
pub(crate) mod image_file;
pub(crate) mod image_folder;
#[cfg(feature = "hdf5")]
mod in_order;
mod jpeg;
mod jpeg_scan;
pub(crate) mod non_image_files;
pub(crate) mod pixel_grid;
pub(crate) mod read_image;
pub(crate) mod resize;

#[cfg(feature = "hdf5")]
pub use self::extraction::{Extraction, ExtractionTime};
pub use self::{
    channel_stats::ChannelStats,
    grid::Grid,
    image_file::ImageFile,
    image_folder::{ImageFolder, list_images},
    non_image_files::NonImageFiles,
    pixel_grid::PixelGrid,
    read_image::{decode_image, read_image, read_image_size, read_upright_jpeg},
    resize::Filter,
};
