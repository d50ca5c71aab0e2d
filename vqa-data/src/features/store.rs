//! Rows of numbers in an HDF5 dataset, memory-mapped where its layout allows.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use hdf5::Dataset;
use hdf5::types::{FloatSize, TypeDescriptor};
use memmap2::Mmap;
use ndarray::s;

use crate::{Error, Result};

/// The element types that are read without HDF5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapped {
    F32,
    F16,
}

impl Mapped {
    fn size(self) -> usize {
        match self {
            Mapped::F32 => 4,
            Mapped::F16 => 2,
        }
    }
}

/// A 2-D or 3-D dataset seen as rows of `width` numbers.
#[derive(Debug)]
pub(super) struct Store {
    reader: Reader,
    shape: Vec<usize>,
    width: usize,
}

#[derive(Debug)]
enum Reader {
    /// Contiguous little-endian floats, read straight from the page cache.
    Map { map: Arc<Mmap>, start: usize, element: Mapped },
    /// Anything else, converted by HDF5: chunked, compressed, big-endian, doubles.
    Hdf5(Dataset),
}

impl Store {
    /// Opens a numeric dataset of rank 2 or 3 whose last axis is `width` numbers.
    pub(super) fn open(path: &Path, file: &hdf5::File, map: &Arc<Mmap>, name: &str) -> Result<Store> {
        let dataset = file.dataset(name).map_err(|_| {
            let there = file.member_names().unwrap_or_default();
            Error::file(
                path,
                format!("no dataset \"{name}\" in it (it has: {}): not a file of region features", list(&there)),
            )
        })?;
        let shape = dataset.shape();
        if !(2..=3).contains(&shape.len()) {
            return Err(Error::file(
                path,
                format!(
                    "\"{name}\" has shape {shape:?}, and [images, regions, numbers] or [regions, numbers] is wanted"
                ),
            ));
        }
        let dtype = dataset.dtype().map_err(|e| Error::hdf5(path, &e))?;
        let descriptor = dtype.to_descriptor().map_err(|e| Error::hdf5(path, &e))?;
        let mapped = match descriptor {
            TypeDescriptor::Float(FloatSize::U4) => Some(Mapped::F32),
            TypeDescriptor::Float(FloatSize::U2) => Some(Mapped::F16),
            TypeDescriptor::Float(_) | TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_) => None,
            other => {
                return Err(Error::file(path, format!("\"{name}\" holds {other}, and numbers are wanted")));
            }
        };
        let little = dtype.byte_order() == hdf5::datatype::ByteOrder::LittleEndian;
        let n_elements: usize = shape.iter().product();
        let reader = match (mapped.filter(|_| little), dataset.offset()) {
            (Some(element), Some(offset)) if dataset.layout() == hdf5::dataset::Layout::Contiguous => {
                let start = offset as usize;
                let end = n_elements.checked_mul(element.size()).and_then(|bytes| start.checked_add(bytes));
                if end.is_none_or(|end| end > map.len()) {
                    return Err(Error::file(
                        path,
                        format!(
                            "\"{name}\" {shape:?} reaches past the end of the file (an interrupted copy or download?): fetch it again"
                        ),
                    ));
                }
                Reader::Map { map: map.clone(), start, element }
            }
            _ => Reader::Hdf5(dataset),
        };
        let width = shape[shape.len() - 1];
        let store = Store { reader, shape, width };
        if store.is_slow() {
            // A filter that is not built in shows only when something is read.
            store.read(path, 0, &mut vec![0.0; width]).map_err(|_| {
                let problem = format!(
                    "\"{name}\" ({}) cannot be read: it is damaged, or compressed in a way that is not built in; rewrite it with `h5repack -f NONE`",
                    store.describe()
                );
                Error::file(path, problem)
            })?;
        }
        Ok(store)
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Whether reads go through HDF5 instead of the memory map.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.reader, Reader::Hdf5(_)) && !self.shape.contains(&0)
    }

    /// Layout and element type in words.
    pub(super) fn describe(&self) -> String {
        match &self.reader {
            Reader::Map { element: Mapped::F32, .. } => "float32, contiguous, memory-mapped".to_owned(),
            Reader::Map { element: Mapped::F16, .. } => "float16, contiguous, memory-mapped".to_owned(),
            Reader::Hdf5(dataset) => {
                let dtype = dataset.dtype().and_then(|t| t.to_descriptor());
                let dtype = dtype.map_or_else(|_| "unknown type".to_owned(), |t| t.to_string());
                let chunks = match dataset.chunk() {
                    Some(chunk) => format!("chunks of {chunk:?}"),
                    None => "not chunked".to_owned(),
                };
                let filters = match dataset.filters().len() {
                    0 => "no filter".to_owned(),
                    n => format!("{n} filter(s)"),
                };
                format!("{dtype}, {chunks}, {filters}, read through HDF5")
            }
        }
    }

    /// Reads rows `first..first + out.len() / width`, a row being `width` numbers, as f32.
    pub(super) fn read(&self, path: &Path, first: usize, out: &mut [f32]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        match &self.reader {
            Reader::Map { map, start, element } => {
                let start = start + first * self.width * element.size();
                let bytes = &map[start..start + out.len() * element.size()];
                match element {
                    Mapped::F32 => copy_f32(bytes, out),
                    Mapped::F16 => widen_f16(bytes, out),
                }
                Ok(())
            }
            Reader::Hdf5(dataset) => {
                let n = out.len() / self.width;
                let read = match self.shape[..] {
                    [_, per_image, _] if first.is_multiple_of(per_image) && n.is_multiple_of(per_image) => {
                        dataset.read_slice::<f32, _, ndarray::IxDyn>(s![
                            first / per_image..(first + n) / per_image,
                            ..,
                            ..
                        ])
                    }
                    [_, per_image, _] => dataset.read_slice::<f32, _, ndarray::IxDyn>(s![
                        first / per_image..=first / per_image,
                        first % per_image..first % per_image + n,
                        ..
                    ]),
                    _ => dataset.read_slice::<f32, _, ndarray::IxDyn>(s![first..first + n, ..]),
                };
                let read = read.map_err(|e| Error::hdf5(path, &e))?;
                for (to, from) in out.iter_mut().zip(read) {
                    *to = from;
                }
                Ok(())
            }
        }
    }
}

fn copy_f32(bytes: &[u8], out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(bytes.chunks_exact(4)) {
        *to = f32::from_le_bytes(from.try_into().expect("chunks of 4"));
    }
}

/// Widens through a small aligned buffer: the map may lie at an odd address, and the processor's conversion
/// instructions work on slices.
fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    const LEN: usize = 512;
    let mut buffer = [f16::ZERO; LEN];
    for (to, from) in out.chunks_mut(LEN).zip(bytes.chunks(LEN * 2)) {
        let halves = &mut buffer[..to.len()];
        for (half, pair) in halves.iter_mut().zip(from.chunks_exact(2)) {
            *half = f16::from_le_bytes(pair.try_into().expect("chunks of 2"));
        }
        halves.convert_to_f32_slice(to);
    }
}

pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
