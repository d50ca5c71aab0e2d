use std::path::PathBuf;

use crate::error::{Error, Result};

/// An image to extract from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// The number at the end of the file's stem, or the id under which a JSON file lists it.
    pub image_id: u64,
    /// The file.
    pub path: PathBuf,
}

impl ImageFile {
    /// Refuses an image that is smaller than `min_size`.
    pub(super) fn refuse_smaller(&self, size: [u32; 2], min_size: [u32; 2]) -> Result<()> {
        let ([width, height], [min_width, min_height]) = (size, min_size);
        if width >= min_width && height >= min_height {
            return Ok(());
        }
        let problem = format!(
            "a picture of {width} x {height} pixels, less than the {min_width} x {min_height} needed: use fewer cells, \
             or leave it out"
        );
        Err(Error::wrong_format(&self.path, problem))
    }
}
