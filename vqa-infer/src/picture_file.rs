//! Writes pictures to files.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use vqa_data::Error;
use vqa_data::files::write_atomic;

use crate::error::Result;

/// Writes a picture as a JPEG or PNG, depending on the extension of `path`.
///
/// # Errors
///
/// When the name ends in neither `.jpg`, `.jpeg` nor `.png`, the format cannot hold so large a picture, or the file
/// cannot be written.
pub fn write_picture(path: &Path, picture: &RgbImage) -> Result<()> {
    let bytes = match ImageFormat::from_path(path) {
        Ok(ImageFormat::Jpeg) => encode_jpeg(path, picture)?,
        Ok(ImageFormat::Png) => {
            let mut bytes = Vec::new();
            let written = picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png);
            written.map_err(|error| Error::wrong_format(path, error.to_string()))?;
            bytes
        }
        _ => {
            let problem = "pictures are written as JPEG or PNG: end the name in .jpg or .png";
            return Err(Error::wrong_format(path, problem).into());
        }
    };
    Ok(write_atomic(path, &bytes)?)
}

/// Encodes a picture as a JPEG. `path`, for error messages, is the file it was drawn from or will be written to.
pub(crate) fn encode_jpeg(path: &Path, drawn: &RgbImage) -> Result<Vec<u8>> {
    encode_jpeg_with_quality(path, drawn, 95)
}

/// [`encode_jpeg`] with a quality from 1 to 100.
pub(crate) fn encode_jpeg_with_quality(path: &Path, drawn: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(drawn).map_err(|error| {
        let (width, height) = drawn.dimensions();
        let problem = format!("{width} x {height} pixels cannot be shown as a JPEG ({error}): scale it down");
        Error::wrong_format(path, problem)
    })?;
    Ok(bytes)
}
