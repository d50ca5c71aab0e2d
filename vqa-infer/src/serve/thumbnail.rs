//! Encodes the pictures of a split for browsers.

use std::path::Path;

use axum::body::Bytes;
use image::imageops::FilterType;
use vqa_data::features::{read_image, read_upright_jpeg};

use crate::error::Result;
use crate::picture_file::{encode_jpeg, encode_jpeg_with_quality};

/// A small picture, as a JPEG.
pub(super) type Thumbnail = Bytes;

/// The longer side of a thumbnail in pixels.
const SIDE: u32 = 256;

/// Draws the thumbnail of a picture.
pub(super) fn thumbnail(path: &Path) -> Result<Thumbnail> {
    let picture = read_image(path)?;
    let small = match picture.width().max(picture.height()) <= SIDE {
        true => picture,
        false => image::DynamicImage::ImageRgb8(picture).resize(SIDE, SIDE, FilterType::Triangle).into_rgb8(),
    };
    Ok(encode_jpeg_with_quality(path, &small, 80)?.into())
}

/// A picture as an upright JPEG: its own file if that is one, otherwise re-encoded.
pub(super) fn whole_picture(path: &Path) -> Result<Bytes> {
    let bytes = match read_upright_jpeg(path)? {
        Some(bytes) => bytes,
        None => encode_jpeg(path, &read_image(path)?)?,
    };
    Ok(bytes.into())
}
