//! Whether a JPEG file is whole.

use memchr::memchr;

/// Whether a JPEG goes on to its end-of-image marker: decoders fill what is missing with grey, and say nothing. What
/// follows the marker, such as the second picture that phones append, is not looked at.
pub(super) fn has_end(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    find_marker(bytes, |marker| marker == END_OF_IMAGE).is_some()
}

/// The offset of the first marker of a kind. Previews, which have markers of their own, lie within segments, and those
/// are skipped by their length.
fn find_marker(bytes: &[u8], is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(0xff, bytes.get(at..)?)?;
        let marker = *bytes.get(at + 1)?;
        if is_wanted(marker) {
            return Some(at);
        }
        at += match marker {
            // Padding in front of a marker.
            0xff => 1,
            // A byte 0xff of the pixels' data; markers without a segment: TEM, restarts, start of image.
            0x00 | 0x01 | 0xd0..=0xd8 => 2,
            _ => 2 + usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?])),
        };
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use image::codecs::jpeg::JpegEncoder;

    use super::*;

    fn jpeg() -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]));
        JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
        bytes
    }

    #[test]
    fn every_cut_is_found() {
        let whole = jpeg();
        assert!(has_end(&whole));
        for len in 0..whole.len() {
            assert!(!has_end(&whole[..len]), "{len}");
        }
        assert!(has_end(&[&whole[..], b"\xff\xd8 and more"].concat()));
    }

    /// A preview in an APP1 segment is a JPEG with an end of its own.
    #[test]
    fn a_preview_is_not_the_picture() {
        let (whole, preview) = (jpeg(), jpeg());
        let length = (preview.len() as u16 + 2).to_be_bytes();
        let with_preview = [&whole[..2], &[0xff, 0xe1], &length, &preview, &whole[2..]].concat();
        assert!(has_end(&with_preview));
        assert!(!has_end(&with_preview[..with_preview.len() - 2]));
    }
}
