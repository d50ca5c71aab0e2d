//! The folder of a question.

use std::fmt::Write;
use std::path::Path;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use vqa_data::Error;
use vqa_data::features::read_upright_jpeg;

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

/// The picture's own file if it is a JPEG that programs which know nothing of EXIF show upright too, or the picture as
/// one.
pub(super) fn original_jpeg(path: &Path, picture: &RgbImage) -> Result<Vec<u8>> {
    read_upright_jpeg(path)?.map_or_else(|| jpeg(path, picture), Ok)
}

/// What is drawn of the picture at `path`, as a JPEG.
pub(super) fn jpeg(path: &Path, drawn: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(drawn).map_err(|error| {
        let (width, height) = drawn.dimensions();
        let problem = format!("{width} x {height} pixels cannot be shown as a JPEG ({error}): scale it down");
        Error::wrong_format(path, problem)
    })?;
    Ok(bytes)
}
