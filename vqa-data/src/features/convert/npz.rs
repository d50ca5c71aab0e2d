//! openvqa's folders of features: a NumPy archive for each image.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use half::f16;
use npyz::{DType, NpyHeader, Order};
use rayon::prelude::*;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::{Error, Result};
use crate::features::bad_image::BadImage;
use crate::features::convert::input::{Indexed, Input, Unreadable};
use crate::features::element_type::ElementType;
use crate::features::fill::Scratch;
use crate::features::image_name::number_at_end;
use crate::features::table::ImageEntry;
use crate::files::fingerprint::Fingerprint;
use crate::files::input::open_input;
use crate::files::limits::MAX_COMPRESSION;

/// The archives of a folder, in order of image ids.
pub(super) struct NpzFolder {
    images: Vec<Indexed>,
    element_type: ElementType,
}

impl NpzFolder {
    pub(super) fn open(
        folder: &Path,
        made_from: &mut Fingerprint,
        bad: &mut Vec<BadImage>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<NpzFolder> {
        let mut paths: Vec<(Option<u64>, PathBuf)> = Vec::new();
        let read_error = || Error::io("read the directory", folder);
        for entry in std::fs::read_dir(folder).map_err(read_error())? {
            let path = entry.map_err(read_error())?.path();
            if path.extension().is_some_and(|extension| extension == "npz") {
                paths.push((image_id(&path), path));
            }
        }
        paths.sort();
        if paths.is_empty() {
            return Err(Error::wrong_format(
                folder,
                "no .npz files in it: give the folder that holds them, a file an image",
            ));
        }
        paths.iter().try_for_each(|(_, path)| made_from.add_file(path))?;
        let indexed = paths.par_iter().with_min_len(16).map(|(id, path)| {
            let indexed = index(*id, path);
            progress(std::fs::metadata(path).map_or(0, |file| file.len()));
            (path, indexed)
        });
        let (mut images, mut all_half) = (Vec::new(), true);
        for (path, indexed) in indexed.collect::<Vec<_>>() {
            match indexed {
                Ok((indexed, is_half)) => {
                    all_half &= is_half;
                    images.push(indexed);
                }
                Err(Unreadable::Malformed(problem)) => bad.push(BadImage { path: path.clone(), line: None, problem }),
                Err(Unreadable::Error(error)) => return Err(error),
            }
        }
        let element_type = if all_half { ElementType::F16 } else { ElementType::F32 };
        Ok(NpzFolder { images, element_type })
    }
}

impl Input for NpzFolder {
    fn images(&self) -> &[Indexed] {
        &self.images
    }

    fn element_type(&self) -> ElementType {
        self.element_type
    }

    fn read(&self, image: usize, scratch: &mut Scratch) -> Result<(), Unreadable> {
        let Indexed { entry, path, .. } = &self.images[image];
        let k = entry.n_regions;
        let mut archive = open(path)?;
        let Scratch { bytes, regions } = scratch;
        let header = read_array(&mut archive, "x", bytes)?;
        // openvqa's [D, K], also where D is K. Fortran's order of that is C's of [K, D].
        let is_dim_first = header.shape().get(1) == Some(&(k as u64));
        let is_transposed = is_dim_first != (header.order() == Order::Fortran);
        let features = values(&header, bytes)?;
        regions.features = if is_transposed { transposed(&features, k) } else { features };
        let header = read_array(&mut archive, "bbox", bytes)?;
        let boxes = values(&header, bytes)?;
        regions.boxes = if header.order() == Order::Fortran { transposed(&boxes, k) } else { boxes };
        Ok(())
    }
}

/// The image id in a name like `COCO_train2014_000000000009.jpg.npz`.
fn image_id(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_string_lossy();
    let stem = [".jpg", ".jpeg", ".png"].iter().find_map(|extension| stem.strip_suffix(extension)).unwrap_or(&stem);
    number_at_end(stem)
}

/// Looks at the headers of an archive's arrays. Says too whether the features are float16.
fn index(image_id: Option<u64>, path: &Path) -> Result<(Indexed, bool), Unreadable> {
    let malformed = |problem: String| Err(Unreadable::Malformed(problem));
    let Some(image_id) = image_id else {
        return malformed("the name ends in no image id: name it like COCO_train2014_000000000009.jpg.npz".to_owned());
    };
    let mut archive = open(path)?;
    let boxes = read_header(&mut archive, "bbox")?;
    let features = read_header(&mut archive, "x")?;
    let &[k, 4] = boxes.shape() else {
        return malformed(format!("bbox has shape {:?}, and [regions, 4] is wanted", boxes.shape()));
    };
    let feature_dim = match *features.shape() {
        [dim, regions] | [regions, dim] if regions == k => dim,
        _ => {
            let problem = format!("x has shape {:?}, and [numbers, {k}] or [{k}, numbers] is wanted", features.shape());
            return malformed(problem);
        }
    };
    // An element type that cannot be read is found before any memory is reserved for it.
    values(&features, &[])?;
    values(&boxes, &[])?;
    let size = match (scalar(&mut archive, "image_w"), scalar(&mut archive, "image_h")) {
        (Some(width), Some(height)) => Some([width, height]),
        _ => None,
    };
    let entry = ImageEntry { image_id, size, n_regions: k as usize };
    let is_half = features.dtype().num_bytes() == Some(2);
    Ok((Indexed { entry, feature_dim: feature_dim as usize, path: path.to_owned(), line: None }, is_half))
}

struct Archive {
    zip: ZipArchive<BufReader<File>>,
    len: u64,
}

fn open(path: &Path) -> Result<Archive, Unreadable> {
    let file = open_input(path)?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    match ZipArchive::new(BufReader::new(file)) {
        Ok(zip) => Ok(Archive { zip, len }),
        Err(ZipError::Io(e)) if is_refusal(&e) => Err(Error::io("read", path)(e).into()),
        Err(e) => Err(Unreadable::Malformed(format!("is no whole .npz archive ({e})"))),
    }
}

/// Whether it was the system that failed, not the content of the file: those errors have a number.
fn is_refusal(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// The header of an array in an archive.
fn read_header(archive: &mut Archive, name: &str) -> Result<NpyHeader, Unreadable> {
    with_header(archive, name, |header, _| Ok(header))
}

/// Reads an array of an archive: its values as they are stored, into `bytes`.
fn read_array(archive: &mut Archive, name: &str, bytes: &mut Vec<u8>) -> Result<NpyHeader, Unreadable> {
    with_header(archive, name, |header, rest| {
        let malformed = |problem: String| Unreadable::Malformed(format!("{name} {problem}"));
        let wanted = n_bytes(&header);
        bytes.clear();
        rest.take(wanted).read_to_end(bytes).map_err(|e| match is_refusal(&e) {
            true => Error::io("read", Path::new(name))(e).into(),
            false => malformed(format!("cannot be read ({e})")),
        })?;
        if bytes.len() as u64 != wanted {
            return Err(malformed(format!("has {} bytes, and its shape {wanted}", bytes.len())));
        }
        Ok(header)
    })
}

fn with_header<T>(
    archive: &mut Archive,
    name: &str,
    and_then: impl FnOnce(NpyHeader, &mut dyn Read) -> Result<T, Unreadable>,
) -> Result<T, Unreadable> {
    /// NumPy writes 128 bytes.
    const LONGEST_HEADER: usize = 64 << 10;
    let malformed = |problem: String| Unreadable::Malformed(format!("{name} {problem}"));
    let mut member =
        archive.zip.by_name(&format!("{name}.npy")).map_err(|e| malformed(format!("is not in it ({e})")))?;
    // The header says how long it is, and the reader of headers believes it.
    let mut start = [0; 12];
    member.read_exact(&mut start).map_err(|e| malformed(format!("is no array ({e})")))?;
    let header_len = match start[6] {
        1 => usize::from(u16::from_le_bytes([start[8], start[9]])),
        _ => u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize,
    };
    if header_len > LONGEST_HEADER {
        return Err(malformed(format!("is no array (a header of {header_len} bytes)")));
    }
    let stored = member.compressed_size().min(archive.len);
    let mut from_start = start.chain(&mut member as &mut dyn Read);
    let header = NpyHeader::from_reader(&mut from_start).map_err(|e| malformed(format!("is no array ({e})")))?;
    if n_bytes(&header) > stored.saturating_mul(MAX_COMPRESSION) {
        return Err(malformed(format!("cannot have the shape {:?}, being {stored} bytes", header.shape())));
    }
    and_then(header, &mut from_start)
}

/// What an array takes, by its header.
fn n_bytes(header: &NpyHeader) -> u64 {
    let element = header.dtype().num_bytes().unwrap_or(0) as u64;
    header.shape().iter().fold(element, |n, &axis| n.saturating_mul(axis))
}

/// The values of an array as float32.
fn values(header: &NpyHeader, bytes: &[u8]) -> Result<Vec<f32>, Unreadable> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
    }
    let dtype = match header.dtype() {
        DType::Plain(dtype) => dtype.to_string(),
        other => other.descr(),
    };
    Ok(match dtype.as_str() {
        "<f4" => each(bytes, f32::from_le_bytes),
        "<f2" => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        "<f8" => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        "|i1" => each(bytes, |bytes| f32::from(i8::from_le_bytes(bytes))),
        "<i2" => each(bytes, |bytes| f32::from(i16::from_le_bytes(bytes))),
        "<i4" => each(bytes, |bytes| i32::from_le_bytes(bytes) as f32),
        "<i8" => each(bytes, |bytes| i64::from_le_bytes(bytes) as f32),
        "|u1" => each(bytes, |bytes| f32::from(u8::from_le_bytes(bytes))),
        "<u2" => each(bytes, |bytes| f32::from(u16::from_le_bytes(bytes))),
        "<u4" => each(bytes, |bytes| u32::from_le_bytes(bytes) as f32),
        "<u8" => each(bytes, |bytes| u64::from_le_bytes(bytes) as f32),
        _ => {
            let problem = format!("an array holds {dtype}, and little-endian numbers are wanted");
            return Err(Unreadable::Malformed(problem));
        }
    })
}

/// [rows, columns] to [columns, rows].
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect()
}

/// An array of one number, if the archive has it.
fn scalar(archive: &mut Archive, name: &str) -> Option<u32> {
    let mut bytes = Vec::new();
    let header = read_array(archive, name, &mut bytes).ok()?;
    match values(&header, &bytes).ok()?[..] {
        [number] if number >= 0.0 => Some(number as u32),
        _ => None,
    }
}
