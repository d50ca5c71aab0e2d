//! Images in a folder.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::{ImageError, ImageReader, RgbImage};

use crate::error::{Error, Result};
use crate::features::image_name::number_at_end;
use crate::files::input::open_input;

/// An image to extract from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// The number at the end of the file's stem.
    pub image_id: u64,
    /// The file.
    pub path: PathBuf,
}

/// The JPEG and PNG files in a directory, in order of the image ids, each of which is the number at the end
/// of the file's stem: `COCO_val2014_000000000042.jpg` is image 42.
///
/// # Errors
///
/// When the directory cannot be read or has no images, a stem ends in no number, or two files have the
/// same id.
pub fn list_images(directory: &Path) -> Result<Vec<ImageFile>> {
    let mut images = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(Error::io("read the directory", directory))? {
        let path = entry.map_err(Error::io("read the directory", directory))?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if !["jpg", "jpeg", "png"].iter().any(|known| extension == *known) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let image_id = number_at_end(&stem).ok_or_else(|| {
            Error::invalid(format!(
                "{}: the name ends in no image id: \
                 name pictures like COCO_train2014_000000000009.jpg, or move others away",
                path.display()
            ))
        })?;
        images.push(ImageFile { image_id, path });
    }
    images.sort_by_key(|image| image.image_id);
    if let Some(twins) = images.windows(2).find(|pair| pair[0].image_id == pair[1].image_id) {
        return Err(Error::duplicate(
            &twins[1].path,
            format!("has the image id {}, like {}: rename one", twins[1].image_id, twins[0].path.display()),
        ));
    }
    if images.is_empty() {
        return Err(Error::wrong_format(directory, "no .jpg, .jpeg or .png files in it"));
    }
    Ok(images)
}

/// Decodes an image to RGB.
///
/// # Errors
///
/// When the file is missing, damaged, or not a JPEG or PNG.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    Ok(open_image(path)?.decode().map_err(unreadable(path))?.into_rgb8())
}

/// Width and height of an image in pixels, without decoding the rest.
///
/// # Errors
///
/// When the file is missing, damaged, or not a JPEG or PNG.
pub fn read_image_size(path: &Path) -> Result<[u32; 2]> {
    let (width, height) = open_image(path)?.into_dimensions().map_err(unreadable(path))?;
    Ok([width, height])
}

fn open_image(path: &Path) -> Result<ImageReader<BufReader<File>>> {
    ImageReader::new(BufReader::new(open_input(path)?)).with_guessed_format().map_err(Error::io("read", path))
}

fn unreadable(path: &Path) -> impl FnOnce(ImageError) -> Error {
    move |error| {
        let problem = format!("not a readable picture ({error}): fetch it again, or take it out of the directory");
        match error {
            // The disk failed, and not the decoder, whose own errors have no number.
            ImageError::IoError(error) if error.raw_os_error().is_some() => Error::io("read", path)(error),
            ImageError::Unsupported(_) => Error::wrong_format(path, problem).because(error),
            _ => Error::damaged(path, problem).because(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_directories_are_explained() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert!(list_images(at).unwrap_err().to_string().contains("no .jpg"));
        std::fs::write(at.join("a_1.png"), "no picture").unwrap();
        assert!(read_image(&at.join("a_1.png")).unwrap_err().to_string().contains("not a readable picture"));
        std::fs::write(at.join("b_01.jpg"), "").unwrap();
        assert!(list_images(at).unwrap_err().to_string().contains("image id 1, like"));
        std::fs::write(at.join("logo.png"), "").unwrap();
        assert!(list_images(at).unwrap_err().to_string().contains("ends in no image id"));
    }
}
