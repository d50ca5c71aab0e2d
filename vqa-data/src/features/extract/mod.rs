//! Region features without a detector: the cells of a grid, as standardised pixels.

pub(crate) mod channel_stats;
pub(crate) mod extraction;
pub(crate) mod grid;
pub(crate) mod pictures;

pub use self::{
    channel_stats::ChannelStats,
    extraction::Extraction,
    grid::Grid,
    pictures::{Picture, list_pictures, read_picture},
};
