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
use crate::features::convert::input::{IndexedImage, Input, Unreadable};
use crate::features::element_type::ElementType;
use crate::features::fill::Scratch;
use crate::features::image_name::image_id;
use crate::features::table::ImageEntry;
use crate::files::fingerprint::Fingerprint;
use crate::files::input::open_input;
use crate::files::limits::MAX_COMPRESSION;
use crate::message::shorten;

/// The most that an array of one image may take as float32. Zeros that inflate to gigabytes are only megabytes stored.
const MAX_ARRAY_BYTES: u64 = 256 << 20;

/// The archives of a folder, in order of image ids.
pub(super) struct NpzFolder {
    images: Vec<IndexedImage>,
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
                paths.push((id_of(&path), path));
            }
        }
        paths.sort();
        if paths.is_empty() {
            return Err(Error::wrong_format(
                folder,
                "no .npz files in it: give the folder that holds them, one file per image",
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
    fn images(&self) -> &[IndexedImage] {
        &self.images
    }

    fn element_type(&self) -> ElementType {
        self.element_type
    }

    fn read(&self, image: usize, scratch: &mut Scratch) -> Result<(), Unreadable> {
        let IndexedImage { entry, path, .. } = &self.images[image];
        let k = entry.n_regions;
        let mut archive = open(path)?;
        let Scratch { bytes, regions } = scratch;
        let header = read_array(&mut archive, "x", bytes)?;
        // openvqa's [D, K], even if D equals K. In Fortran's order, that is [K, D] in C's.
        let is_dim_first = header.shape().get(1) == Some(&(k as u64));
        let is_transposed = is_dim_first != (header.order() == Order::Fortran);
        let features = values(&header, bytes, "x")?;
        regions.features = if is_transposed { transposed(&features, k) } else { features };
        let header = read_array(&mut archive, "bbox", bytes)?;
        let boxes = values(&header, bytes, "bbox")?;
        regions.boxes = if header.order() == Order::Fortran { transposed(&boxes, k) } else { boxes };
        Ok(())
    }
}

/// The image id in a name like `COCO_train2014_000000000009.jpg.npz`.
fn id_of(path: &Path) -> Option<u64> {
    image_id(&path.file_stem()?.to_string_lossy())
}

/// Reads the headers of an archive's arrays. Also returns whether the features are float16.
fn index(image_id: Option<u64>, path: &Path) -> Result<(IndexedImage, bool), Unreadable> {
    let malformed = |problem: String| Err(Unreadable::Malformed(problem));
    let Some(image_id) = image_id else {
        return malformed(
            "the name does not end in an image id: name it like COCO_train2014_000000000009.jpg.npz".to_owned(),
        );
    };
    let mut archive = open(path)?;
    let boxes = read_header(&mut archive, "bbox")?;
    let features = read_header(&mut archive, "x")?;
    let &[k, 4] = boxes.shape() else {
        return malformed(format!("bbox has shape {:?}, not [regions, 4]", boxes.shape()));
    };
    let feature_dim = match *features.shape() {
        [dim, regions] | [regions, dim] if regions == k => dim,
        _ => {
            let problem = format!("x has shape {:?}, not [values, {k}] or [{k}, values]", features.shape());
            return malformed(problem);
        }
    };
    for (name, n) in [("x", k.saturating_mul(feature_dim)), ("bbox", k.saturating_mul(4))] {
        if n.saturating_mul(4) > MAX_ARRAY_BYTES {
            return malformed(format!("{name} has {n} values, more than 256 MiB of float32: it is damaged"));
        }
    }
    // An element type that cannot be read is found before any memory is reserved for it.
    values(&features, &[], "x")?;
    values(&boxes, &[], "bbox")?;
    let size = match (scalar(&mut archive, "image_w"), scalar(&mut archive, "image_h")) {
        (Some(width), Some(height)) => Some([width, height]),
        _ => None,
    };
    let entry = ImageEntry { image_id, size, n_regions: k as usize };
    let is_half = matches!(ValueType::of(&features), Some(ValueType { kind: 'f', n_bytes: 2, .. }));
    Ok((IndexedImage { entry, feature_dim: feature_dim as usize, path: path.to_owned(), line: None }, is_half))
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
        Err(e) => Err(Unreadable::Malformed(format!("is not a complete .npz archive ({e})"))),
    }
}

/// Whether the system failed, rather than the content of the file: only such errors have a system error code.
fn is_refusal(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// Reads the header of an array in an archive.
fn read_header(archive: &mut Archive, name: &str) -> Result<NpyHeader, Unreadable> {
    with_header(archive, name, |header, _| Ok(header))
}

/// Reads the stored bytes of an array into `bytes`, and returns its header.
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
            return Err(malformed(format!("has {} bytes, but its shape needs {wanted}", bytes.len())));
        }
        Ok(header)
    })
}

fn with_header<T>(
    archive: &mut Archive,
    name: &str,
    and_then: impl FnOnce(NpyHeader, &mut dyn Read) -> Result<T, Unreadable>,
) -> Result<T, Unreadable> {
    /// In bytes; NumPy writes 128.
    const LONGEST_HEADER: usize = 64 << 10;
    /// More than a dictionary and a shape need.
    const MOST_BRACKETS: usize = 16;
    let malformed = |problem: String| Unreadable::Malformed(format!("{name} {problem}"));
    let Some(index) = archive.zip.index_for_name(&format!("{name}.npy")) else {
        return Err(malformed(format!("is missing: {}", there(archive))));
    };
    let mut member = archive.zip.by_index(index).map_err(|e| malformed(format!("cannot be read ({e})")))?;
    // A header says how long it is, which npyz's parser believes, and that parser follows brackets to any depth.
    let mut start = [0; 12];
    member.read_exact(&mut start).map_err(|e| malformed(format!("is not an array ({e})")))?;
    // The first version has two bytes for the length, later ones four.
    let (header_len, n_read) = match start[6] {
        1 => (usize::from(u16::from_le_bytes([start[8], start[9]])), 2),
        _ => (u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize, 0),
    };
    if header_len > LONGEST_HEADER {
        return Err(malformed(format!("is not an array (a header of {header_len} bytes)")));
    }
    let mut header = start.to_vec();
    let rest = header_len.saturating_sub(n_read) as u64;
    (&mut member).take(rest).read_to_end(&mut header).map_err(|e| malformed(format!("is not an array ({e})")))?;
    let n_brackets = header.iter().filter(|byte| b"([{".contains(byte)).count();
    if n_brackets > MOST_BRACKETS {
        return Err(malformed(format!("is not an array of numbers (a header with {n_brackets} brackets)")));
    }
    let stored = member.compressed_size().min(archive.len);
    let mut from_start = header.as_slice().chain(&mut member as &mut dyn Read);
    let header = NpyHeader::from_reader(&mut from_start).map_err(|e| malformed(format!("is not an array ({e})")))?;
    if n_bytes(&header) > stored.saturating_mul(MAX_COMPRESSION) {
        return Err(malformed(format!("cannot have the shape {:?}, being {stored} bytes", header.shape())));
    }
    and_then(header, &mut from_start)
}

/// Number of bytes that an array takes, according to its header.
fn n_bytes(header: &NpyHeader) -> u64 {
    let element = header.dtype().num_bytes().unwrap_or(0) as u64;
    header.shape().iter().fold(element, |n, &axis| n.saturating_mul(axis))
}

/// The element type of an array of numbers, as NumPy writes it: `<f4`, `|u1`.
struct ValueType {
    is_big_endian: bool,
    /// `f`, `i` or `u`.
    kind: char,
    n_bytes: usize,
}

impl ValueType {
    fn of(header: &NpyHeader) -> Option<ValueType> {
        let DType::Plain(dtype) = header.dtype() else { return None };
        let dtype = dtype.to_string();
        let mut chars = dtype.chars();
        let is_big_endian = chars.next()? == '>';
        Some(ValueType { is_big_endian, kind: chars.next()?, n_bytes: chars.as_str().parse().ok()? })
    }
}

/// Converts the values of an array to float32. Doubles are rounded; integers must be exact.
fn values(header: &NpyHeader, bytes: &[u8], name: &str) -> Result<Vec<f32>, Unreadable> {
    let malformed = |problem: String| Unreadable::Malformed(format!("{name} {problem}"));
    let unknown = || {
        let dtype = shorten(&header.dtype().descr());
        malformed(format!("holds {dtype}, not numbers of up to 8 bytes"))
    };
    let ValueType { is_big_endian, kind, n_bytes } = ValueType::of(header).ok_or_else(unknown)?;
    let inexact =
        |integer: i128| malformed(format!("holds {integer}, which float32 cannot represent: store floats instead"));
    let big = is_big_endian;
    match (kind, n_bytes) {
        ('f', 4) => Ok(each(bytes, big, f32::from_le_bytes)),
        ('f', 2) => Ok(each(bytes, big, |bytes| f16::from_le_bytes(bytes).to_f32())),
        ('f', 8) => Ok(each(bytes, big, |bytes| f64::from_le_bytes(bytes) as f32)),
        ('i', 1) => Ok(each(bytes, big, |bytes| f32::from(i8::from_le_bytes(bytes)))),
        ('u', 1) => Ok(each(bytes, big, |bytes| f32::from(u8::from_le_bytes(bytes)))),
        ('i', 2) => Ok(each(bytes, big, |bytes| f32::from(i16::from_le_bytes(bytes)))),
        ('u', 2) => Ok(each(bytes, big, |bytes| f32::from(u16::from_le_bytes(bytes)))),
        ('i', 4) => each_exactly(bytes, big, i32::from_le_bytes).map_err(inexact),
        ('u', 4) => each_exactly(bytes, big, u32::from_le_bytes).map_err(inexact),
        ('i', 8) => each_exactly(bytes, big, i64::from_le_bytes).map_err(inexact),
        ('u', 8) => each_exactly(bytes, big, u64::from_le_bytes).map_err(inexact),
        _ => Err(unknown()),
    }
}

/// Converts every N bytes to a value. `value` gets them in little-endian order.
fn each<const N: usize, C: FromIterator<T>, T>(bytes: &[u8], is_big_endian: bool, value: impl Fn([u8; N]) -> T) -> C {
    let in_order = |mut bytes: [u8; N]| {
        if is_big_endian {
            bytes.reverse();
        }
        bytes
    };
    bytes.as_chunks().0.iter().map(|&bytes| value(in_order(bytes))).collect()
}

/// Converts integers to the floats that equal them, or returns the first that has none.
fn each_exactly<const N: usize, T: Into<i128>>(
    bytes: &[u8],
    is_big_endian: bool,
    integer: impl Fn([u8; N]) -> T,
) -> Result<Vec<f32>, i128> {
    each(bytes, is_big_endian, |bytes| {
        let integer: i128 = integer(bytes).into();
        let float = integer as f32;
        if float as i128 == integer { Ok(float) } else { Err(integer) }
    })
}

/// Says what is in an archive, and what is wanted, for a message.
fn there(archive: &Archive) -> String {
    const FEW: usize = 8;
    let name = |file: &str| shorten(file.strip_suffix(".npy").unwrap_or(file));
    let mut names: Vec<String> = archive.zip.file_names().flatten().map(|file| name(&file)).collect();
    names.sort_unstable();
    let more = if names.len() > FEW { ", …" } else { "" };
    names.truncate(FEW);
    let there =
        if names.is_empty() { "the archive is empty".to_owned() } else { format!("it has {}", names.join(", ")) };
    format!("{there}{more}; expected openvqa's arrays, x [values, regions] and bbox [regions, 4] in pixels")
}

/// Transposes [rows, columns] to [columns, rows].
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect()
}

/// Reads an array of one number, if the archive has it.
fn scalar(archive: &mut Archive, name: &str) -> Option<u32> {
    if read_header(archive, name).ok()?.shape().iter().any(|&axis| axis != 1) {
        return None;
    }
    let mut bytes = Vec::new();
    let header = read_array(archive, name, &mut bytes).ok()?;
    match values(&header, &bytes, name).ok()?[..] {
        [number] if number >= 0.0 => Some(number as u32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;
    use crate::features::convert::collection::Collection;
    use crate::features::convert::input::Check;

    /// A NumPy file of the first version.
    fn npy(dtype: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        [b"\x93NUMPY\x01\0".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), values].concat()
    }

    fn boxes(n: usize) -> Vec<u8> {
        npy("<f4", &format!("{n}, 4"), &vec![0; n * 16])
    }

    /// Opens a folder with one archive of these arrays.
    fn open(arrays: &[(&str, Vec<u8>)]) -> Result<(ElementType, Scratch, Option<[u32; 2]>), String> {
        let directory = tempfile::tempdir().unwrap();
        let mut archive = ZipWriter::new(File::create(directory.path().join("a_7.npz")).unwrap());
        for (name, bytes) in arrays {
            let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            archive.start_file(format!("{name}.npy"), stored).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
        let paths = [directory.path().to_owned()];
        let collection = Collection::open(&paths, Check::Everything, &|_| {}).map_err(|e| e.to_string())?;
        let mut bad = Vec::new();
        let folder = NpzFolder::open(directory.path(), &mut Fingerprint::default(), &mut bad, &|_| {}).unwrap();
        let mut scratch = Scratch::default();
        assert!(folder.read(0, &mut scratch).is_ok());
        Ok((collection.element_type(), scratch, folder.images()[0].entry.size))
    }

    /// Whatever the byte order, only float16 is stored as float16, and integers are exact.
    #[test]
    fn values_stay_what_they_are() {
        let halves = [1.5, -2.0].map(f16::from_f32);
        for (dtype, bytes, element_type, values) in [
            ("<f2", halves.map(f16::to_le_bytes).concat(), ElementType::F16, [1.5, -2.0]),
            (">f2", halves.map(f16::to_be_bytes).concat(), ElementType::F16, [1.5, -2.0]),
            (">f4", [1.5, -2.0].map(f32::to_be_bytes).concat(), ElementType::F32, [1.5, -2.0]),
            // A whole number that float16 cannot hold.
            ("<i2", [4097, -4097].map(i16::to_le_bytes).concat(), ElementType::F32, [4097.0, -4097.0]),
            (">u2", [4097, 65_535].map(u16::to_be_bytes).concat(), ElementType::F32, [4097.0, 65_535.0]),
            (
                "<i8",
                [1 << 24, -(1 << 40)].map(i64::to_le_bytes).concat(),
                ElementType::F32,
                [16_777_216.0, -1.099_511_6e12],
            ),
        ] {
            let (stored_as, scratch, _) = open(&[("x", npy(dtype, "2, 1", &bytes)), ("bbox", boxes(1))]).unwrap();
            assert_eq!((stored_as, &scratch.regions.features[..]), (element_type, &values[..]), "{dtype}");
        }
        // The first whole number that float32 cannot hold; and the largest ones, which a saturating cast back would
        // reproduce.
        for (dtype, bytes, words) in [
            ("<i4", 16_777_217i32.to_le_bytes().to_vec(), "x holds 16777217, which float32 cannot represent"),
            (">u8", u64::MAX.to_be_bytes().to_vec(), "x holds 18446744073709551615, which float32 cannot represent"),
            ("<i8", i64::MAX.to_le_bytes().to_vec(), "x holds 9223372036854775807, which float32 cannot represent"),
        ] {
            let error = open(&[("x", npy(dtype, "1, 1", &bytes)), ("bbox", boxes(1))]).err().unwrap();
            assert!(error.contains(words), "{error}");
        }
    }

    /// UNITER's archives.
    #[test]
    fn other_arrays_are_named() {
        let arrays = ["features", "norm_bb", "conf", "soft_labels"].map(|name| (name, npy("<f2", "1, 1", &[0; 2])));
        let error = open(&arrays).err().unwrap();
        for words in ["bbox is missing: it has conf, features, norm_bb, soft_labels", "x [values, regions]", "a_7.npz"]
        {
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn headers_that_lie_reserve_nothing() {
        let stored = vec![7; 80 << 10];
        for (x, words) in [
            (npy("|u1", "1, 3000000000", &[0; 100]), "x cannot have the shape [1, 3000000000], being"),
            (npy("|u1", "1, 80000000", &stored), "x has 80000000 values, more than 256 MiB of float32"),
            (npy("<f4", "1, 18446744073709551615", &[0; 100]), "x cannot have the shape"),
            (npy("<f4", "1, 9", &[0; 35]), "x has 35 bytes, but its shape needs 36"),
            (npy("<f4", &"(".repeat(60_000), &[]), "x is not an array of numbers (a header with"),
            (npy("<c16", "1, 1", &[0; 16]), "x holds '<c16', not numbers of up to 8 bytes"),
        ] {
            let error = open(&[("x", x), ("bbox", boxes(1))]).err().unwrap();
            assert!(error.contains(words), "{words}: {error}");
        }
        // What is not a number is not read to find that out.
        let wide = npy("|u1", "80000000", &stored);
        let sound = npy("<f4", "1, 1", &[0; 4]);
        let size = |width: Vec<u8>| {
            let height = npy("<i8", "", &480i64.to_le_bytes());
            open(&[("x", sound.clone()), ("bbox", boxes(1)), ("image_w", width), ("image_h", height)]).unwrap().2
        };
        assert_eq!(size(wide), None);
        assert_eq!(size(npy("<i8", "", &640i64.to_le_bytes())), Some([640, 480]));
    }
}
