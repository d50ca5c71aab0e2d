//! Bottom-up-attention's TSV files of region features.
//!
//! Each line is an image, with its arrays in base64: `image_id image_w image_h num_boxes boxes features` in the files
//! of peteanderson80/bottom-up-attention,
//! `img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features` in LXMERT's. There is no
//! header. Where Python 3 wrote bytes without decoding them, the base64 is in a `b'…'`.
//!
//! The index is built without reading the features, which are nearly all of the file: the first columns of a line say
//! how long it must be, and a read at that offset confirms it. If there is no line break at that offset, the
//! line is searched for its end.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::bad_image::BadImage;
use crate::features::convert::input::{Check, IndexedImage, Input, Unreadable};
use crate::features::element_type::ElementType;
use crate::features::fill::Scratch;
use crate::features::image_name::image_id;
use crate::features::store::from_little_endian;
use crate::features::table::ImageEntry;
use crate::features::whole_number::whole_number;
use crate::files::input::open_input;
use crate::message::shorten;

/// A TSV file, indexed: which image is on which line.
pub(super) struct TsvFile {
    path: PathBuf,
    file: File,
    images: Vec<IndexedImage>,
    columns: Vec<ColumnRanges>,
}

/// The byte ranges of a line's two large columns in the file.
#[derive(Debug, PartialEq)]
struct ColumnRanges {
    boxes: Range<u64>,
    features: Range<u64>,
}

impl TsvFile {
    pub(super) fn open(
        path: &Path,
        check: Check,
        bad: &mut Vec<BadImage>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<TsvFile> {
        let file = open_input(path)?;
        let len = file.metadata().map_err(Error::io("read", path))?.len();
        refuse_archives(&file).map_err(|problem| Error::wrong_format(path, problem))?;
        let lines = index(&file, len, PIECE, check, progress).map_err(Error::io("read", path))?;
        let (mut images, mut columns) = (Vec::new(), Vec::new());
        for (line, parsed) in (1..).zip(lines) {
            match parsed {
                Line::Image(entry, feature_dim, ranges) => {
                    images.push(IndexedImage { entry, feature_dim, path: path.to_owned(), line: Some(line) });
                    columns.push(ranges);
                }
                Line::Bad(problem) => bad.push(BadImage { path: path.to_owned(), line: Some(line), problem }),
                Line::Empty => {}
            }
        }
        if images.is_empty() && bad.iter().all(|bad| bad.path != path) {
            return Err(Error::wrong_format(path, "no lines in it: not a TSV file of region features"));
        }
        Ok(TsvFile { path: path.to_owned(), file, images, columns })
    }
}

impl Input for TsvFile {
    fn images(&self) -> &[IndexedImage] {
        &self.images
    }

    fn element_type(&self) -> ElementType {
        ElementType::F32
    }

    fn read(&self, image: usize, scratch: &mut Scratch) -> Result<(), Unreadable> {
        let IndexedImage { entry, feature_dim, .. } = &self.images[image];
        let ColumnRanges { boxes, features } = &self.columns[image];
        // The two columns follow each other.
        scratch.bytes.resize((features.end - boxes.start) as usize, 0);
        self.file.read_exact_at(&mut scratch.bytes, boxes.start).map_err(Error::io("read", &self.path))?;
        let bytes = |column: &Range<u64>| {
            &scratch.bytes[(column.start - boxes.start) as usize..(column.end - boxes.start) as usize]
        };
        let n = entry.n_regions;
        let malformed = |column: &str, problem: String| Unreadable::Malformed(format!("{column} {problem}"));
        decode(bytes(features), n * feature_dim, &mut scratch.regions.features)
            .map_err(|e| malformed("features", e))?;
        decode(bytes(boxes), n * 4, &mut scratch.regions.boxes).map_err(|e| malformed("boxes", e))
    }
}

/// Decodes base64 to `n` little-endian float32.
fn decode(base64: &[u8], n: usize, values: &mut Vec<f32>) -> Result<(), String> {
    // The decoder needs room for the padding too.
    values.resize(n + 1, 0.0);
    let len = STANDARD
        .decode_slice(base64, bytemuck::must_cast_slice_mut(values))
        .map_err(|e| format!("is not base64 ({e})"))?;
    if len != n * 4 {
        return Err(format!("has {len} bytes, expected {}", n * 4));
    }
    values.truncate(n);
    from_little_endian(values);
    Ok(())
}

/// Refuses archives, which are given by mistake.
fn refuse_archives(file: &File) -> Result<(), String> {
    let mut start = [0; 2];
    match file.read_exact_at(&mut start, 0).map(|()| &start) {
        Ok(b"\x1f\x8b") => Err("compressed with gzip: unpack it first".to_owned()),
        Ok(b"PK") => Err("an archive: give the folder for .npz files, and unpack any other".to_owned()),
        _ => Ok(()),
    }
}

/// Bytes per task of the thread pool.
const PIECE: u64 = 64 << 20;

/// Finds the lines of a file, in order, in parallel pieces.
fn index(
    file: &File,
    len: u64,
    piece: u64,
    check: Check,
    progress: &(dyn Fn(u64) + Sync),
) -> std::io::Result<Vec<Line>> {
    let starts: Vec<u64> = (0..len).step_by(piece as usize).collect();
    let pieces = starts.par_iter().map(|&start| {
        let end = (start + piece).min(len);
        let lines = Lines { file, len }.index(start, end, check);
        progress(end - start);
        lines
    });
    Ok(pieces.collect::<std::io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// A line of a file.
#[derive(Debug, PartialEq)]
enum Line {
    /// With the length of its feature vectors.
    Image(ImageEntry, usize, ColumnRanges),
    Bad(String),
    Empty,
}

/// The lines of a file, read in small pieces.
struct Lines<'a> {
    file: &'a File,
    len: u64,
}

impl Lines<'_> {
    /// Parses the lines that begin in `start..end`.
    fn index(&self, start: u64, end: u64, check: Check) -> std::io::Result<Vec<Line>> {
        /// Enough for the columns before the features: `HEAD` with a hundred regions, `LONGEST_HEAD` with any sensible
        /// number of them.
        const HEAD: usize = 8 << 10;
        const LONGEST_HEAD: usize = 4 << 20;
        let mut lines = Vec::new();
        let mut at = match start {
            0 => 0,
            // If a line begins before the piece and ends after it, the piece has no lines.
            _ => self.line_end(start - 1, end)? + 1,
        };
        let mut feature_dim = None;
        while at < end {
            let mut head = self.read(at, HEAD)?;
            let columns = loop {
                let line_end =
                    memchr(b'\n', &head).or_else(|| (at + head.len() as u64 == self.len).then_some(head.len()));
                let columns = Columns::find(&head[..line_end.unwrap_or(head.len())], line_end.is_some());
                if line_end.is_some() || columns.is_ok() || head.len() >= LONGEST_HEAD {
                    break columns;
                }
                // The features begin further on.
                head = self.read(at, head.len() * 8)?;
            };
            let line_end = match (&columns, feature_dim) {
                // A thorough check finds every line break, even one inside a column.
                (Ok(columns), Some(dim)) if check == Check::Index => {
                    self.expected_end(at + columns.features as u64, columns.n_regions * dim, columns.is_bytes)?
                }
                _ => None,
            };
            let line_end = match line_end {
                Some(line_end) => line_end,
                None => self.line_end(at, self.len)?,
            };
            let line = match columns {
                Ok(columns) => columns.finish(at, line_end, self)?,
                Err(_) if line_end == at || (line_end == at + 1 && head[0] == b'\r') => Line::Empty,
                Err(problem) => Line::Bad(problem),
            };
            if let Line::Image(ImageEntry { n_regions: 1.., .. }, dim, _) = &line {
                feature_dim = Some(*dim);
            }
            lines.push(line);
            at = line_end + 1;
        }
        Ok(lines)
    }

    /// Reads at most `n` bytes of the file.
    fn read(&self, at: u64, n: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; (self.len - at.min(self.len)).min(n as u64) as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// The offset of the next line break from `at` on, or `limit` if there is none before it.
    fn line_end(&self, mut at: u64, limit: u64) -> std::io::Result<u64> {
        while at < limit {
            let bytes = self.read(at, (limit - at).min(256 << 10) as usize)?;
            if let Some(found) = memchr(b'\n', &bytes) {
                return Ok(at + found as u64);
            }
            at += bytes.len() as u64;
        }
        Ok(limit)
    }

    /// Returns where a line whose `n` feature values begin at `features` must end, if there is in fact a line break.
    fn expected_end(&self, features: u64, n: usize, is_bytes: bool) -> std::io::Result<Option<u64>> {
        let Some(bytes) = n.checked_mul(4) else { return Ok(None) };
        let at = features.saturating_add(bytes.div_ceil(3) as u64 * 4 + u64::from(is_bytes));
        Ok(match &self.read(at, 2)?[..] {
            [b'\n', ..] => Some(at),
            [] if at == self.len => Some(at),
            b"\r\n" => Some(at + 1),
            _ => None,
        })
    }
}

/// How Python 3 writes bytes.
const BYTES: &[u8] = b"b'";

/// The columns before the features.
struct Columns {
    image_id: u64,
    size: [u32; 2],
    n_regions: usize,
    boxes: Range<usize>,
    /// Where the features begin.
    features: usize,
    /// Whether they are in a `b'…'`, whose end is still to be found.
    is_bytes: bool,
}

impl Columns {
    /// Finds the columns at the beginning of a line, or in all of it.
    fn find(head: &[u8], is_whole: bool) -> Result<Columns, String> {
        let mut columns: Vec<Range<usize>> = Vec::with_capacity(10);
        let mut at = 0;
        while columns.len() < 9
            && let Some(tab) = memchr(b'\t', &head[at..])
        {
            columns.push(at..at + tab);
            at += tab + 1;
        }
        // Windows editors begin a file with a byte order mark, which is not part of the id.
        let text = |column: usize| {
            let text = std::str::from_utf8(&head[columns[column].clone()]).unwrap_or_default();
            text.trim_start_matches('\u{feff}').trim()
        };
        // In the fourth column, one format has the number of regions, the other base64 of as many 8-byte integers.
        let is_count = |text: &str| whole_number(text).is_some_and(|number| number <= u32::MAX.into());
        let is_short = columns.len() == 5 || (columns.len() > 5 && is_count(text(3)));
        let (id, width, height, count, boxes) = match columns.len() {
            _ if is_short => (0, 1, 2, 3, 4),
            9 => (0, 2, 1, 7, 8),
            n => return Err(format!("{} columns, expected 6 (bottom-up-attention) or 10 (LXMERT)", n + 1)),
        };
        let number_of = |column: usize, name: &str| -> Result<u32, String> {
            let number = whole_number(text(column)).and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| format!("{name} is \"{}\", not a whole number", shorten(text(column))))
        };
        // LXMERT writes COCO_val2014_000000262148 for 262148.
        let image_id = whole_number(text(id)).or_else(|| image_id(text(id))).ok_or_else(|| {
            format!(
                "the image id is \"{}\", expected a whole number, alone or after \"_\" or \"-\" at the end of a name",
                shorten(text(id))
            )
        })?;
        let n_regions = number_of(count, "num_boxes")? as usize;
        let size = [number_of(width, "the width")?, number_of(height, "the height")?];
        let mut boxes = columns[boxes].clone();
        let mut features = boxes.end + 1;
        if head[boxes.clone()].starts_with(BYTES) && head[boxes.clone()].ends_with(b"'") {
            boxes = boxes.start + BYTES.len()..(boxes.end - 1).max(boxes.start + BYTES.len());
        }
        let boxes_len = decoded_len(boxes.len() as u64, &head[boxes.clone()]);
        if boxes_len != n_regions as u64 * 16 {
            return Err(format!("boxes has {boxes_len} bytes, but {n_regions} boxes need {}", n_regions * 16));
        }
        if head.len() < features + BYTES.len() && !is_whole {
            return Err("the features are missing".to_owned());
        }
        let is_bytes = head[features..].starts_with(BYTES);
        features += if is_bytes { BYTES.len() } else { 0 };
        Ok(Columns { image_id, size, n_regions, boxes, features, is_bytes })
    }

    /// Parses the rest of the line, which begins at `start` and ends at `line_end`.
    fn finish(self, start: u64, line_end: u64, lines: &Lines) -> std::io::Result<Line> {
        /// Base64's padding, the end of `b'…'`, and Windows' line break.
        const TAIL: u64 = 4;
        let Columns { image_id, size, n_regions, boxes, features, is_bytes } = self;
        let features = start + features as u64..line_end;
        let tail_at = line_end.saturating_sub(TAIL).max(features.start);
        let mut tail = &lines.read(tail_at, (line_end - tail_at) as usize)?[..];
        tail = tail.strip_suffix(b"\r").unwrap_or(tail);
        if is_bytes {
            let Some(base64) = tail.strip_suffix(b"'") else {
                return Ok(Line::Bad("features is a b'…' without an end (a line cut off?)".to_owned()));
            };
            tail = base64;
        }
        let features = features.start..tail_at + tail.len() as u64;
        let features_len = decoded_len(features.end - features.start, tail);
        let dim = features_len / 4 / (n_regions as u64).max(1);
        if n_regions > 0 && (features_len == 0 || features_len != dim * 4 * n_regions as u64) {
            return Ok(Line::Bad(format!(
                "features has {features_len} bytes, which do not divide evenly among {n_regions} regions (a line cut \
                 off?)"
            )));
        }
        let boxes = start + boxes.start as u64..start + boxes.end as u64;
        let entry = ImageEntry { image_id, size: Some(size), n_regions };
        Ok(Line::Image(entry, dim as usize, ColumnRanges { boxes, features }))
    }
}

/// Number of bytes that a base64 column of this length decodes to, given how it ends.
fn decoded_len(len: u64, end: &[u8]) -> u64 {
    let padding = end.iter().rev().take_while(|&&byte| byte == b'=').count() as u64;
    (len / 4 * 3).saturating_sub(padding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a file is cut into pieces, and however closely it is checked, its lines are those of plain
        /// splitting.
        #[test]
        fn pieces_change_nothing(
            kinds in prop::collection::vec(0usize..6, 0..30),
            piece in 1u64..400,
            ends_in_break in any::<bool>(),
            is_bytes in any::<bool>(),
        ) {
            let quoted = |base64: String| if is_bytes { format!("b'{base64}'") } else { base64 };
            let features = |n: usize| STANDARD.encode([n as f32, 0.5].map(f32::to_le_bytes).concat().repeat(n));
            let line = |(i, kind): (usize, &usize)| match kind {
                0 => String::new(),
                1 => "7\t8".to_owned(),
                2 => "x\t".repeat(12),
                n => {
                    let boxes = STANDARD.encode(vec![0; 16 * (n - 2)]);
                    format!("{i}\t640\t480\t{}\t{}\t{}", n - 2, quoted(boxes), quoted(features(n - 2)))
                }
            };
            let lines: Vec<String> = kinds.iter().enumerate().map(line).collect();
            let text = lines.join("\n") + if ends_in_break { "\n" } else { "" };
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            for check in [Check::Index, Check::Everything] {
                let found = index(&file, text.len() as u64, piece, check, &|_| {}).unwrap();
                prop_assert_eq!(&found, &index(&file, text.len() as u64, PIECE, check, &|_| {}).unwrap());
                prop_assert_eq!(found.len(), text.lines().count());
                for (i, (found, line)) in found.iter().zip(text.lines()).enumerate() {
                    match found {
                        Line::Empty => prop_assert!(line.is_empty()),
                        Line::Bad(_) => prop_assert!((1..3).contains(&kinds[i])),
                        Line::Image(entry, dim, ranges) => {
                            prop_assert_eq!((entry.image_id, entry.n_regions, *dim), (i as u64, kinds[i] - 2, 2));
                            let column = |range: &Range<u64>| &text[range.start as usize..range.end as usize];
                            let wanted = |i: usize| {
                                line.rsplit('\t').nth(i).unwrap().trim_start_matches("b'").trim_end_matches('\'')
                            };
                            prop_assert_eq!(column(&ranges.features), wanted(0));
                            prop_assert_eq!(column(&ranges.boxes), wanted(1));
                        }
                    }
                }
            }
        }
    }
}
