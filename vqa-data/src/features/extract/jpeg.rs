//! Checks that JPEG files are complete.

use memchr::memchr;

use crate::features::extract::jpeg_scan::{Frame, Huffman, ScanError, Tables, walk};

/// Finds damage in a JPEG of at most `max_pixels` that decoders do not report: they fill what is missing with grey.
/// Whatever follows the end-of-image marker, such as the second picture that phones append, is ignored.
pub(super) fn find_damage(bytes: &[u8], max_pixels: u64) -> Option<&'static str> {
    /// Decoders have such a limit too: a file of many scans keeps them busy for a long time.
    const MOST_SCANS: usize = 100;
    let mut tables = Tables::default();
    let (mut frame, mut restart_interval, mut n_scans, mut damage) = (None, 0, 0, None);
    let mut at = 0;
    loop {
        let Some(Segment { marker, payload, end }) = next_segment(bytes, at) else { return Some("it is cut short") };
        match (marker, payload) {
            (END_OF_IMAGE, _) => return damage,
            // Decoders refuse all other kinds: arithmetic coding, lossless, 12 bits.
            (0xc0..=0xc2, _) if frame.is_none() => frame = Frame::parse(payload, marker == 0xc2, max_pixels),
            (DEFINE_HUFFMAN_TABLES, _) => define_tables(&mut tables, payload),
            (DEFINE_RESTART_INTERVAL, &[high, low, ..]) => restart_interval = u16::from_be_bytes([high, low]).into(),
            (START_OF_SCAN, _) if n_scans < MOST_SCANS && damage.is_none() => {
                n_scans += 1;
                let scan = |frame| walk(frame, &tables, restart_interval, payload, &bytes[end..]);
                damage = match frame.as_mut().map_or(Ok(()), scan) {
                    Ok(()) => None,
                    Err(ScanError::Short) => Some("a part of its pixels is missing"),
                    Err(ScanError::Invalid) => Some("a part of its pixels is damaged"),
                };
            }
            _ => {}
        }
        at = end;
    }
}

const DEFINE_HUFFMAN_TABLES: u8 = 0xc4;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
const DEFINE_RESTART_INTERVAL: u8 = 0xdd;

struct Segment<'a> {
    marker: u8,
    payload: &'a [u8],
    /// The offset of what follows it: another segment, or the data of a scan.
    end: usize,
}

/// Returns the first segment from an offset on that decoding may depend on. Previews, which have markers of their own,
/// are inside segments, and those are skipped by their length.
fn next_segment(bytes: &[u8], mut at: usize) -> Option<Segment<'_>> {
    loop {
        at += memchr(0xff, bytes.get(at..)?)?;
        let marker = *bytes.get(at + 1)?;
        match marker {
            // Padding in front of a marker.
            0xff => at += 1,
            // A byte 0xff of a scan, or a marker without a segment: TEM, restarts, start of image.
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            END_OF_IMAGE => return Some(Segment { marker, payload: &[], end: at + 2 }),
            _ => {
                let length = usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]));
                let end = at + 2 + length.max(2);
                return Some(Segment { marker, payload: bytes.get(at + 4..end)?, end });
            }
        }
    }
}

/// Reads the tables of a segment, which has one or more: class and number, 16 counts, values.
fn define_tables(tables: &mut Tables, mut payload: &[u8]) {
    while let Some((&[number, ref counts @ ..], rest)) = payload.split_first_chunk::<17>() {
        let n: usize = counts.iter().map(|&count| usize::from(count)).sum();
        let Some((values, rest)) = rest.split_at_checked(n) else { return };
        let table = tables.get_mut(usize::from(number >> 4)).and_then(|class| class.get_mut(usize::from(number & 15)));
        if let Some(table) = table {
            *table = Some(Huffman::new(counts, values));
        }
        payload = rest;
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

    const ALL: u64 = u64::MAX;

    fn is_sound(bytes: &[u8]) -> bool {
        find_damage(bytes, ALL).is_none()
    }

    #[test]
    fn every_cut_is_found() {
        let whole = jpeg();
        assert!(is_sound(&whole));
        for len in 0..whole.len() {
            assert_eq!(find_damage(&whole[..len], ALL), Some("it is cut short"), "{len}");
        }
        assert!(is_sound(&[&whole[..], b"\xff\xd8 and more"].concat()));
    }

    /// Some programs add an end-of-image marker to what they have cut short.
    #[test]
    fn missing_pixels_are_found() {
        let whole = jpeg();
        let start = (0..whole.len()).find(|&at| whole[at..].starts_with(&[0xff, START_OF_SCAN])).unwrap() + 14;
        for len in start..whole.len() - 2 {
            let ended = [&whole[..len], &[0xff, END_OF_IMAGE]].concat();
            // The last byte may be nothing but padding.
            assert!(!is_sound(&ended) || len + 3 == whole.len(), "{len} of {}", whole.len());
        }
    }

    /// From Pillow: refining scans with end-of-band runs, restart markers, four components.
    const PICTURES: [&[u8]; 3] = [
        include_bytes!("../../../tests/data/jpeg/progressive.jpg"),
        include_bytes!("../../../tests/data/jpeg/restarts.jpg"),
        include_bytes!("../../../tests/data/jpeg/cmyk.jpg"),
    ];

    /// The byte ranges of the data of all scans.
    fn scans(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
        let mut scans = Vec::new();
        let mut at = 0;
        while let Some(Segment { marker, end, .. }) = next_segment(bytes, at) {
            if marker == START_OF_SCAN {
                let is_end = |&at: &usize| bytes[at] == 0xff && !matches!(bytes[at + 1], 0 | 0xd0..=0xd7);
                scans.push(end..(end..bytes.len()).find(is_end).unwrap());
            }
            at = end;
        }
        scans
    }

    #[test]
    fn scans_of_every_kind_are_walked_through() {
        for (picture, n_scans) in PICTURES.into_iter().zip([10, 1, 1]) {
            assert!(is_sound(picture));
            let scans = scans(picture);
            assert_eq!(scans.len(), n_scans);
            for scan in scans {
                // All but the last two bytes, which may be padding.
                for len in scan.start..scan.end - 2 {
                    let shorter = [&picture[..len], &picture[scan.end..]].concat();
                    assert!(!is_sound(&shorter), "{len} of {scan:?}");
                }
            }
        }
    }

    /// Whatever is damaged, the check runs to the end.
    #[test]
    fn damage_does_no_harm() {
        for picture in PICTURES {
            for at in 2..picture.len() {
                for value in [0, 0xff, picture[at] ^ 1, picture[at] ^ 0x80] {
                    let mut changed = picture.to_vec();
                    changed[at] = value;
                    find_damage(&changed, 1 << 20);
                }
            }
        }
    }

    /// A preview in an APP1 segment is a JPEG with an end of its own.
    #[test]
    fn a_preview_is_not_the_picture() {
        let (whole, preview) = (jpeg(), jpeg());
        let length = (preview.len() as u16 + 2).to_be_bytes();
        let with_preview = [&whole[..2], &[0xff, 0xe1], &length, &preview, &whole[2..]].concat();
        assert!(is_sound(&with_preview));
        assert!(!is_sound(&with_preview[..with_preview.len() - 2]));
    }
}
