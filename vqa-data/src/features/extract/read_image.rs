//! Reads image files: complete, upright, and of a size that fits into memory.

use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};
use crate::features::extract::decoding_memory::DECODING_MEMORY;
use crate::features::extract::jpeg;
use crate::files::input::open_input;

/// The most pixels that an image may have: about 13,377 x 13,377, which is also where Pillow refuses. A file of a few
/// kilobytes can claim any number.
const MAX_PIXELS: u64 = 178_956_970;

/// The largest JPEG file, in bytes; JPEG files are decoded from memory.
const MAX_JPEG_BYTES: u64 = 1 << 30;

/// Decodes an image to RGB, upright as its EXIF data say: JPEG, PNG, WebP, GIF (the first frame), BMP or TIFF,
/// recognised by the first bytes of the file and not by its name. 16-bit values become 8-bit, and transparency is
/// dropped.
///
/// # Errors
///
/// When the file is missing, damaged, cut short or of another kind, or the image has more than 178,956,970 pixels.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    with_image(path, Ok)
}

/// Decodes an image in memory, as [`read_image`] does one in a file; `name` is what errors call it.
///
/// # Errors
///
/// Those of [`read_image`], and when it has more than `max_pixels`.
pub fn decode_image(name: &Path, bytes: Vec<u8>, max_pixels: u64) -> Result<RgbImage> {
    let max_pixels = max_pixels.min(MAX_PIXELS);
    let image = ImageInFile::read(name, Cursor::new(bytes), |bytes| jpeg::find_damage(bytes, max_pixels), max_pixels)?;
    let _share = DECODING_MEMORY.take(image.n_bytes());
    image.decode()
}

/// Decodes an image as [`read_image`] does, and uses it. Threads that would exceed the memory budget for decoding wait
/// for each other, so `use_image` must not read another image.
pub(super) fn with_image<T>(path: &Path, use_image: impl FnOnce(RgbImage) -> Result<T>) -> Result<T> {
    let file = ImageInFile::open(path, |bytes| jpeg::find_damage(bytes, MAX_PIXELS))?;
    let _share = DECODING_MEMORY.take(file.n_bytes());
    use_image(file.decode()?)
}

/// Reads the width and height in pixels of an image when upright, without decoding its pixels.
///
/// # Errors
///
/// When the file is missing or of another kind, its header is damaged, or the image has more than 178,956,970 pixels.
pub fn read_image_size(path: &Path) -> Result<[u32; 2]> {
    Ok(ImageInFile::open(path, |_| None)?.upright_size())
}

/// Returns the bytes of a file if it is a JPEG whose pixels are stored upright. Such a file looks the same in every
/// program, even in those that ignore EXIF.
///
/// # Errors
///
/// As [`read_image_size`].
pub fn read_upright_jpeg(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = ImageInFile::open(path, |_| None)?;
    if file.format != ImageFormat::Jpeg || file.orientation != Orientation::NoTransforms {
        return Ok(None);
    }
    std::fs::read(path).map(Some).map_err(Error::io("read", path))
}

/// An image file whose header has been read.
struct ImageInFile<'a> {
    path: &'a Path,
    format: ImageFormat,
    decoder: Box<dyn ImageDecoder>,
    orientation: Orientation,
    /// Damage in a JPEG that decoders would not report.
    damage: Option<&'static str>,
}

impl ImageInFile<'_> {
    /// Reads the header of a file.
    fn open(path: &Path, find_damage: fn(&[u8]) -> Option<&'static str>) -> Result<ImageInFile<'_>> {
        ImageInFile::read(path, BufReader::new(open_input(path)?), find_damage, MAX_PIXELS)
    }

    /// Reads the header. `find_damage` checks a JPEG as a whole.
    fn read(
        path: &Path,
        mut reader: impl BufRead + Seek + 'static,
        find_damage: impl Fn(&[u8]) -> Option<&'static str>,
        max_pixels: u64,
    ) -> Result<ImageInFile<'_>> {
        let start = reader.fill_buf().map_err(Error::io("read", path))?;
        let format = format_of(start).ok_or_else(|| no_picture(path, start))?;
        let (mut decoder, damage) = match format {
            ImageFormat::Jpeg => {
                let bytes = read_jpeg(path, reader)?;
                let damage = find_damage(&bytes);
                (open_decoder(path, Cursor::new(bytes), format)?, damage)
            }
            _ => (open_decoder(path, reader, format)?, None),
        };
        // EXIF data that cannot be read says nothing about the pixels.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(unreadable(path, format!("{width} x {height} pixels")));
        }
        if u64::from(width) * u64::from(height) > max_pixels {
            return Err(Error::wrong_format(
                path,
                format!(
                    "a picture of {width} x {height} pixels, more than the limit of {} million: scale it down, or \
                     leave it out",
                    max_pixels / 1_000_000
                ),
            ));
        }
        Ok(ImageInFile { path, format, decoder, orientation, damage })
    }

    fn upright_size(&self) -> [u32; 2] {
        let (width, height) = self.decoder.dimensions();
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => [height, width],
            Orientation::NoTransforms
            | Orientation::Rotate180
            | Orientation::FlipHorizontal
            | Orientation::FlipVertical => [width, height],
        }
    }

    /// About the most memory that decoding takes: the values as they are stored, and twice three bytes per pixel (the
    /// coefficients of a progressive JPEG, or RGB before and after it is turned).
    fn n_bytes(&self) -> u64 {
        let (width, height) = self.decoder.dimensions();
        self.decoder.total_bytes() + 6 * u64::from(width) * u64::from(height)
    }

    fn decode(mut self) -> Result<RgbImage> {
        /// For tables, and a strip or two of the pixels.
        const BESIDE: u64 = 64 << 20;
        if let Some(damage) = self.damage {
            return Err(unreadable(self.path, damage));
        }
        self.decoder.set_limits(limit(self.n_bytes() + BESIDE)).map_err(cannot_decode(self.path))?;
        let image = DynamicImage::from_decoder(self.decoder).map_err(cannot_decode(self.path))?;
        let mut image = DynamicImage::ImageRgb8(image.into_rgb8());
        image.apply_orientation(self.orientation);
        Ok(image.into_rgb8())
    }
}

fn read_jpeg(path: &Path, reader: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_JPEG_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_JPEG_BYTES {
        return Err(unreadable(path, "a JPEG of more than 1 GiB"));
    }
    Ok(bytes)
}

fn open_decoder<R: BufRead + Seek + 'static>(
    path: &Path,
    reader: R,
    format: ImageFormat,
) -> Result<Box<dyn ImageDecoder>> {
    /// Limit for what comes beside the pixels, which may be compressed too.
    const HEADER: u64 = 256 << 20;
    let mut reader = ImageReader::with_format(reader, format);
    reader.limits(limit(HEADER));
    Ok(Box::new(reader.into_decoder().map_err(cannot_decode(path))?))
}

fn limit(n_bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(n_bytes);
    limits
}

/// Whether a file begins like a picture.
pub(super) fn is_picture(path: &Path) -> bool {
    let Ok(file) = open_input(path) else { return false };
    BufReader::new(file).fill_buf().is_ok_and(|start| format_of(start).is_some())
}

/// Returns the format of a file that begins with these bytes, if it is one that is read.
fn format_of(start: &[u8]) -> Option<ImageFormat> {
    image::guess_format(start).ok().filter(ImageFormat::reading_enabled)
}

/// The error for a file that does not begin like a picture.
fn no_picture(path: &Path, start: &[u8]) -> Error {
    let problem = match start {
        [] => not_readable("it is empty"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
            "not a readable picture but HEIC, AVIF or a video: convert it to JPEG".to_owned()
        }
        _ => not_readable("it does not start like a JPEG, PNG, WebP, GIF, BMP or TIFF"),
    };
    Error::wrong_format(path, problem)
}

fn cannot_decode(path: &Path) -> impl FnOnce(ImageError) -> Error {
    move |error| match error {
        // The disk failed, not the decoder, whose own errors have no system error code.
        ImageError::IoError(error) if error.raw_os_error().is_some() => Error::io("read", path)(error),
        ImageError::Unsupported(_) => {
            let problem = format!("not a readable picture ({error}): convert it to PNG, or leave it out");
            Error::wrong_format(path, problem).because(error)
        }
        _ => unreadable(path, &error).because(error),
    }
}

fn unreadable(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::damaged(path, not_readable(problem))
}

fn not_readable(problem: impl std::fmt::Display) -> String {
    format!("not a readable picture ({problem}): fetch it again, or leave it out")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use image::Rgb;

    use super::*;

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Large blocks of one colour, which JPEG keeps: red on the left of the first row, green on the right, the rest
    /// blue.
    fn picture() -> RgbImage {
        RgbImage::from_fn(64, 32, |x, y| match (x / 16, y / 16) {
            (0, 0) => Rgb([255, 0, 0]),
            (3, 0) => Rgb([0, 255, 0]),
            _ => Rgb([0, 0, 255]),
        })
    }

    /// A JPEG with an EXIF segment that has nothing but an orientation.
    fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let tiff = [b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]].concat();
        let segment = [b"Exif\0\0".as_slice(), &tiff].concat();
        let length = (segment.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, &segment, &jpeg[2..]].concat()
    }

    /// EXIF 2.3, tag 0x0112: where the first row and the first column of the stored picture are when it is upright.
    #[test]
    fn pictures_are_upright() {
        let jpeg = encoded(&picture(), ImageFormat::Jpeg);
        for (orientation, red, green) in [
            (1, "top left", "top right"),
            (2, "top right", "top left"),
            (3, "bottom right", "bottom left"),
            (4, "bottom left", "bottom right"),
            (5, "top left", "bottom left"),
            (6, "top right", "bottom right"),
            (7, "bottom right", "top right"),
            (8, "bottom left", "top left"),
        ] {
            let file = written(&with_orientation(&jpeg, orientation));
            let upright = read_image(file.path()).unwrap();
            let (width, height) = upright.dimensions();
            assert_eq!((width, height), if orientation < 5 { (64, 32) } else { (32, 64) });
            assert_eq!(read_image_size(file.path()).unwrap(), [width, height]);
            let channel_at = |corner: &str| {
                let x = if corner.ends_with("left") { 4 } else { width - 5 };
                let y = if corner.starts_with("top") { 4 } else { height - 5 };
                upright.get_pixel(x, y).0.iter().position(|&value| value > 200)
            };
            assert_eq!((channel_at(red), channel_at(green)), (Some(0), Some(1)), "{orientation}");
            assert_eq!(read_upright_jpeg(file.path()).unwrap().is_some(), orientation == 1);
            let in_memory = std::fs::read(file.path()).unwrap();
            assert!(decode_image(Path::new("upload"), in_memory, 64 * 32).unwrap() == upright);
        }
    }

    const LOSSLESS: [ImageFormat; 5] =
        [ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP];

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let picture = picture();
        for format in LOSSLESS {
            let mut file = tempfile::Builder::new().suffix(".jpg").tempfile().unwrap();
            file.write_all(&encoded(&picture, format)).unwrap();
            assert!(read_image(file.path()).unwrap() == picture, "{format:?}");
            assert_eq!(read_image_size(file.path()).unwrap(), [64, 32]);
            assert_eq!(read_upright_jpeg(file.path()).unwrap(), None);
        }
        for (bytes, words) in [
            (b"no picture".as_slice(), "does not start like a JPEG"),
            (b"", "it is empty"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, AVIF or a video: convert it to JPEG"),
        ] {
            let error = read_image(written(bytes).path()).unwrap_err();
            assert!(matches!(error, Error::WrongFormat { .. }) && error.to_string().contains(words), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let error = read_image(directory.path()).unwrap_err().to_string();
        assert!(error.contains("a directory, not a file"), "{error}");
    }

    /// A truncated file is refused, unless nothing but padding is missing.
    #[test]
    fn what_is_cut_short_is_refused() {
        let noise =
            RgbImage::from_fn(40, 30, |x, y| Rgb([(x * x * 7 + y * 31) as u8, (x * y) as u8, (y * y * 3) as u8]));
        for format in LOSSLESS.into_iter().chain([ImageFormat::Jpeg]) {
            let whole = encoded(&noise, format);
            let expected = read_image(written(&whole).path()).unwrap();
            for len in (0..whole.len()).rev().take(64).chain((0..whole.len()).step_by(97)) {
                if let Ok(read) = read_image(written(&whole[..len]).path()) {
                    assert!(format != ImageFormat::Jpeg && read == expected, "{format:?}: {len} of {}", whole.len());
                }
            }
        }
        let jpeg = encoded(&noise, ImageFormat::Jpeg);
        let error = read_image(written(&jpeg[..jpeg.len() * 3 / 5]).path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }) && error.to_string().contains("cut short"), "{error}");
        // As phones append a second picture, and some programs zeros.
        let longer = [&jpeg[..], &jpeg, &[0; 100]].concat();
        assert!(read_image(written(&longer).path()).unwrap() == read_image(written(&jpeg).path()).unwrap());
    }

    #[test]
    fn sizes_have_a_limit() {
        let mut bmp = encoded(&RgbImage::new(1, 1), ImageFormat::Bmp);
        let mut with_size = |width: i32, height: i32| {
            bmp[18..22].copy_from_slice(&width.to_le_bytes());
            bmp[22..26].copy_from_slice(&height.to_le_bytes());
            let file = written(&bmp);
            (read_image_size(file.path()), read_image(file.path()))
        };
        let (size, image) = with_size(20_000, 20_000);
        for error in [size.unwrap_err(), image.unwrap_err()] {
            assert!(error.to_string().contains("20000 x 20000 pixels, more than the limit of 178 million"), "{error}");
        }
        // The second of these exceeds Pillow's limit.
        assert_eq!(with_size(13_377, 13_377).0.unwrap(), [13_377; 2]);
        assert!(with_size(13_378, 13_377).0.is_err());
        assert!(with_size(0, 1).0.is_err());
    }
}
