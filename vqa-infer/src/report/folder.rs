//! The folder of a question.

use std::fmt::Write;
use std::path::Path;

use image::RgbImage;
use vqa_data::features::read_upright_jpeg;

use crate::error::Result;
use crate::picture_file::encode_jpeg;
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
    read_upright_jpeg(path)?.map_or_else(|| encode_jpeg(path, picture), Ok)
}
