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
    let refuse = || {
        Error::invalid(format!(
            "the image template \"{template}\" names no picture: \
             write {{image_id}}, or {{image_id:012}} for twelve digits, where the id stands"
        ))
    };
    let mut path = String::new();
    let mut rest = template;
    let mut is_named = false;
    while let Some((before, after)) = rest.split_once("{image_id") {
        let (format, after) = after.split_once('}').ok_or_else(refuse)?;
        let width = match format.strip_prefix(':') {
            None if format.is_empty() => 0,
            Some(digits) => digits.parse().ok().filter(|&width: &usize| width <= 64).ok_or_else(refuse)?,
            None => return Err(refuse()),
        };
        path.push_str(&format!("{before}{image_id:0width$}"));
        rest = after;
        is_named = true;
    }
    path.push_str(rest);
    if is_named { Ok(path.into()) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn image_templates() {
        assert_eq!(image_path("a/{image_id}.png", 12).unwrap(), Path::new("a/12.png"));
        assert_eq!(image_path("{image_id:4}.png", 12).unwrap(), Path::new("0012.png"));
        assert_eq!(image_path("{image_id:03}/{image_id}.png", 12).unwrap(), Path::new("012/12.png"));
        for bad in ["a.png", "{image_id}/{image_id:x}.png", "{image_id", "{image_id:x}.png", "{image_idx}.png"] {
            assert!(image_path(bad, 1).is_err(), "{bad}");
        }
    }
}
