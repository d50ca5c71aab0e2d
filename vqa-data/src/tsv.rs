//! Bottom-up-attention's TSV files of region features.
//!
//! A line is an image, its arrays in base64: `image_id image_w image_h num_boxes boxes features` in the files of
//! peteanderson80/bottom-up-attention, `img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes
//! boxes features` in LXMERT's. There is no header.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::{memchr, memchr_iter};
use memmap2::Mmap;
use rayon::prelude::*;

use crate::features::{ElementType, FeatureWriter, FeatureWriterSpec, ImageRegions, RegionCount};
use crate::json::map_file;
use crate::{Error, Result};

/// Some TSV files, mapped and indexed: which image is on which line.
pub struct TsvFiles {
    files: Vec<(PathBuf, Mmap)>,
    rows: Vec<Row>,
    bad: Vec<BadRow>,
    feature_dim: usize,
}

/// A line that can be used, by its places in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    file: usize,
    line: usize,
    image_id: u64,
    size: [u32; 2],
    n_regions: usize,
    boxes: Range<usize>,
    features: Range<usize>,
}

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The file.
    pub path: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl TsvFiles {
    /// Maps the files and finds their lines, in parallel. `progress` is called with the number of bytes just looked at.
    ///
    /// Lines that are malformed, of another feature length than the first, or about an image that an earlier line has
    /// already, are set aside: see [`TsvFiles::bad_rows`].
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or no line of any can be used.
    pub fn open(paths: &[PathBuf], progress: &(dyn Fn(u64) + Sync)) -> Result<TsvFiles> {
        let mut files = Vec::new();
        let (mut found, mut bad) = (Vec::new(), Vec::new());
        for (file, path) in paths.iter().enumerate() {
            let map = map_file(path)?;
            for row in index_lines(&map, file, progress) {
                match row {
                    Ok(row) => found.push(row),
                    Err((line, problem)) => bad.push(BadRow { path: path.clone(), line, problem }),
                }
            }
            files.push((path.clone(), map));
        }
        let dim_of = |row: &Row| decoded_len(&files[row.file].1[row.features.clone()]) / 4 / row.n_regions.max(1);
        let feature_dim = found.iter().find(|row| row.n_regions > 0).map_or(0, dim_of);
        let mut lines: HashMap<u64, usize> = HashMap::new();
        let mut rows = Vec::new();
        for row in found {
            let problem = if row.n_regions > 0 && dim_of(&row) != feature_dim {
                format!("{} numbers a region, and {feature_dim} before", dim_of(&row))
            } else if let Some(&earlier) = lines.get(&row.image_id) {
                format!("image {} again, after line {earlier}", row.image_id)
            } else {
                lines.insert(row.image_id, row.line);
                rows.push(row);
                continue;
            };
            bad.push(BadRow { path: files[row.file].0.clone(), line: row.line, problem });
        }
        bad.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        if rows.is_empty() {
            let first = bad.first().map(|bad| format!("; line {}: {}", bad.line, bad.problem)).unwrap_or_default();
            let path = paths.first().map(PathBuf::as_path).unwrap_or(Path::new("TSV files"));
            return Err(Error::file(path, format!("no line of bottom-up-attention's form in it{first}")));
        }
        Ok(TsvFiles { files, rows, bad, feature_dim })
    }

    /// Number of images.
    pub fn n_images(&self) -> usize {
        self.rows.len()
    }

    /// Length of a feature vector, D.
    pub fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    /// Lines that were set aside, in order.
    pub fn bad_rows(&self) -> &[BadRow] {
        &self.bad
    }

    /// Keeps only these images.
    ///
    /// # Errors
    ///
    /// When some of them are not there; they are counted, and the first few named.
    pub fn keep(&mut self, image_ids: &HashSet<u64>) -> Result<()> {
        self.rows.retain(|row| image_ids.contains(&row.image_id));
        if self.rows.len() == image_ids.len() {
            return Ok(());
        }
        let there: HashSet<u64> = self.rows.iter().map(|row| row.image_id).collect();
        let mut missing: Vec<u64> = image_ids.difference(&there).copied().collect();
        Err(Error::file(
            &self.files[0].0,
            format!(
                "{} of the {} wanted images are not in it (image ids {})",
                missing.len(),
                image_ids.len(),
                crate::split::first_few(&mut missing)
            ),
        ))
    }

    /// Writes the images to an HDF5 file, in order, with fixed K if all have the same number of regions, adaptive if not.
    /// Decodes in parallel, in constant memory. `progress` is called with the number of images just done.
    ///
    /// # Errors
    ///
    /// When a line's base64 is damaged or its numbers are NaN or infinite, or the file cannot be written. No file is
    /// left then.
    pub fn write(&self, out: &Path, element_type: ElementType, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        /// Images decoded at a time: enough for all cores, few enough to hold in memory.
        const CHUNK: usize = 128;
        let counts = || self.rows.iter().map(|row| row.n_regions);
        let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
        let regions =
            if least == most { RegionCount::Fixed(most) } else { RegionCount::Adaptive { total: counts().sum() } };
        let spec =
            FeatureWriterSpec { n_images: self.rows.len(), regions, feature_dim: self.feature_dim, element_type };
        let mut writer = FeatureWriter::create(out, spec)?;
        let decode = |rows: &[Row]| {
            let decoded = rows.par_iter().map_init(Vec::new, |bytes, row| self.decode(row, bytes));
            decoded.collect::<Result<Vec<_>>>()
        };
        let mut chunks = self.rows.chunks(CHUNK);
        let mut decoded = decode(chunks.next().unwrap_or_default())?;
        // While a chunk is written, the next is decoded.
        while !decoded.is_empty() {
            let next = chunks.next().unwrap_or_default();
            let (written, next) = rayon::join(|| writer.append(&decoded), || decode(next));
            written?;
            progress(decoded.len() as u64);
            decoded = next?;
        }
        writer.finish()
    }

    /// Decodes a row, with a buffer to use again.
    fn decode(&self, row: &Row, bytes: &mut Vec<u8>) -> Result<ImageRegions> {
        let (path, map) = &self.files[row.file];
        let mut numbers = |column: &str, place: &Range<usize>, n: usize| {
            let bad = |problem: String| Error::file(path, format!("line {}: {column} {problem}", row.line));
            bytes.clear();
            STANDARD.decode_vec(&map[place.clone()], bytes).map_err(|e| bad(format!("is no base64 ({e})")))?;
            if bytes.len() != n * 4 {
                return Err(bad(format!("has {} bytes, and {} are wanted", bytes.len(), n * 4)));
            }
            Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>())
        };
        Ok(ImageRegions {
            image_id: row.image_id,
            size: row.size,
            features: numbers("features", &row.features, row.n_regions * self.feature_dim)?,
            boxes: numbers("boxes", &row.boxes, row.n_regions * 4)?,
        })
    }
}

/// Bytes that a base64 field holds.
fn decoded_len(field: &[u8]) -> usize {
    let padding = field.iter().rev().take_while(|&&byte| byte == b'=').count();
    field.len() / 4 * 3 - padding.min(field.len() / 4 * 3)
}

/// Finds and parses the lines of a file, in parallel pieces, in order.
fn index_lines(
    bytes: &[u8],
    file: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<std::result::Result<Row, (usize, String)>> {
    const PIECE: usize = 64 << 20;
    // A piece is the lines that begin in it.
    let starts: Vec<usize> = (0..bytes.len()).step_by(PIECE).collect();
    let pieces: Vec<Vec<(usize, usize)>> = starts
        .par_iter()
        .map(|&start| {
            let end = (start + PIECE).min(bytes.len());
            let first = match start {
                0 => Some(0),
                _ => memchr(b'\n', &bytes[start - 1..]).map(|found| start + found),
            };
            let mut lines = Vec::new();
            if let Some(mut at) = first.filter(|&first| first < end) {
                for newline in memchr_iter(b'\n', &bytes[at..]).map(|found| found + first.unwrap_or(0)) {
                    lines.push((at, newline));
                    at = newline + 1;
                    if at >= end {
                        break;
                    }
                }
                if at < end {
                    lines.push((at, bytes.len()));
                }
            }
            progress((end - start) as u64);
            lines
        })
        .collect();
    let lines: Vec<(usize, usize)> = pieces.into_iter().flatten().collect();
    lines
        .par_iter()
        .enumerate()
        .filter(|(_, (start, end))| start < end)
        .map(|(i, &(start, end))| {
            parse_line(&bytes[start..end], start, file, i + 1).map_err(|problem| (i + 1, problem))
        })
        .collect()
}

/// Finds the columns of a line that begins at `start`.
fn parse_line(line: &[u8], start: usize, file: usize, number: usize) -> std::result::Result<Row, String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut columns: Vec<Range<usize>> = Vec::with_capacity(10);
    let mut at = 0;
    // At most ten: what follows the ninth tab is the last, without looking for more in a megabyte of base64.
    while columns.len() < 9
        && let Some(tab) = memchr(b'\t', &line[at..])
    {
        columns.push(at..at + tab);
        at += tab + 1;
    }
    columns.push(at..line.len());
    let (id, width, height, count, boxes, features) = match columns.len() {
        6 => (0, 1, 2, 3, 4, 5),
        10 => (0, 2, 1, 7, 8, 9),
        n => return Err(format!("{n} columns, and 6 (bottom-up-attention) or 10 (LXMERT) are wanted")),
    };
    let text = |column: usize| std::str::from_utf8(&line[columns[column].clone()]).unwrap_or_default().trim();
    let number_of = |column: usize, name: &str| -> std::result::Result<u32, String> {
        text(column).parse().map_err(|_| format!("{name} is \"{}\", and a number is wanted", shorten(text(column))))
    };
    // LXMERT writes COCO_val2014_000000262148 for 262148.
    let id_text = text(id);
    let digits = &id_text[id_text.trim_end_matches(|c: char| c.is_ascii_digit()).len()..];
    let image_id = digits.parse().map_err(|_| format!("the image id is \"{}\"", shorten(id_text)))?;
    let n_regions = number_of(count, "num_boxes")? as usize;
    let size = [number_of(width, "the width")?, number_of(height, "the height")?];
    let row = Row {
        file,
        line: number,
        image_id,
        size,
        n_regions,
        boxes: start + columns[boxes].start..start + columns[boxes].end,
        features: start + columns[features].start..start + columns[features].end,
    };
    let boxes_len = decoded_len(&line[columns[boxes].clone()]);
    if boxes_len != n_regions * 16 {
        return Err(format!("boxes has {boxes_len} bytes, and {n_regions} boxes have {}", n_regions * 16));
    }
    let features_len = decoded_len(&line[columns[features].clone()]);
    if n_regions > 0 && (features_len == 0 || !features_len.is_multiple_of(n_regions * 4)) {
        return Err(format!(
            "features has {features_len} bytes, which {n_regions} regions cannot share (a line cut off?)"
        ));
    }
    Ok(row)
}

/// The beginning of a text, for a message.
fn shorten(text: &str) -> String {
    text.chars().take(20).collect()
}
