//! Where an image is, from a template.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// The path of an image, from a template as in [`SourceConfig::images`](crate::questions::SourceConfig::images).
///
/// ```
/// let path = vqa_data::questions::image_path("train2014/COCO_train2014_{image_id:012}.jpg", 9).unwrap();
/// assert_eq!(path, std::path::Path::new("train2014/COCO_train2014_000000000009.jpg"));
/// ```
///
/// # Errors
///
/// When the template has no `{image_id}`.
pub fn image_path(template: &str, image_id: u64) -> Result<PathBuf> {
    let parts = template.split_once("{image_id").and_then(|(before, rest)| {
        let (format, after) = rest.split_once('}')?;
        let width = match format.strip_prefix(':') {
            None if format.is_empty() => 0,
            Some(digits) => digits.parse::<usize>().ok().filter(|&width| width <= 64)?,
            None => return None,
        };
        Some((before, width, after))
    });
    let Some((before, width, after)) = parts else {
        return Err(Error::invalid(format!(
            "the image template \"{template}\" names no picture: \
             write {{image_id}}, or {{image_id:012}} for twelve digits, where the id stands"
        )));
    };
    Ok(PathBuf::from(format!("{before}{image_id:0width$}{after}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn image_templates() {
        assert_eq!(image_path("a/{image_id}.png", 12).unwrap(), Path::new("a/12.png"));
        assert_eq!(image_path("{image_id:4}.png", 12).unwrap(), Path::new("0012.png"));
        for bad in ["a.png", "{image_id", "{image_id:x}.png", "{image_idx}.png"] {
            assert!(image_path(bad, 1).is_err(), "{bad}");
        }
    }
}
