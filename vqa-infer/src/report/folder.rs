//! The folder of a question.

use std::fmt::Write;
use std::io::{Cursor, Read};
use std::path::Path;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use vqa_data::Error;
use vqa_data::files::open_input;

use crate::error::Result;
use crate::report::explained::Explained;

/// Question, ground truth and answer, in the seed's words.
pub(super) fn qa_text(explained: &Explained) -> String {
    let mut text = format!("{}\n", explained.question);
    if let Some((most, _)) = explained.annotators.first() {
        let _ = writeln!(text, "gt: {most}");
    }
    let _ = writeln!(text, "answer: {}", explained.answer);
    text
}

/// The picture's own file if it is a JPEG, or the picture as one.
pub(super) fn original_jpeg(path: &Path, picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_input(path)?.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(if bytes.starts_with(&[0xff, 0xd8]) { bytes } else { jpeg(picture) })
}

pub(super) fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).expect("a decoded picture can be encoded");
    bytes.into_inner()
}
