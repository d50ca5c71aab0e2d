//! Rows of values in an HDF5 dataset, memory-mapped where its layout allows.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use hdf5::Datatype;
use hdf5::dataset::Layout;
use hdf5::datatype::ByteOrder;
use hdf5::types::TypeDescriptor;
use memmap2::Advice;
use ndarray::s;

use crate::error::{Error, Result};
use crate::features::container::Container;
use crate::features::element_type::ElementType;
use crate::features::hdf5_error::cannot_read;
use crate::files::mmap::MappedFile;
use crate::message::counted;

/// A 2-D or 3-D dataset seen as rows of `width` values.
#[derive(Debug)]
pub(super) struct Store {
    reader: Reader,
    shape: Vec<usize>,
    width: usize,
    element_type: ElementType,
}

#[derive(Debug)]
enum Reader {
    /// Contiguous little-endian floats, read straight from the page cache.
    Map { map: Arc<MappedFile>, start: usize },
    /// Anything else, converted by HDF5: chunked, compressed, big-endian, doubles.
    Hdf5(hdf5::Dataset),
}

impl Store {
    /// Opens a numeric dataset of rank 2 or 3 whose last axis has `width` values.
    pub(super) fn open(container: &Container, name: &'static str) -> Result<Store> {
        let path = container.path();
        let dataset = container.dataset(name)?.ok_or_else(|| {
            let there = container.contents();
            Error::wrong_format(
                path,
                format!("no dataset \"{name}\" in it (it has: {there}): not a file of region features"),
            )
        })?;
        let shape = dataset.hdf5.shape();
        if !(2..=3).contains(&shape.len()) {
            return Err(Error::wrong_format(
                path,
                format!("\"{name}\" has shape {shape:?}, not [images, regions, values] or [regions, values]"),
            ));
        }
        let dtype = dataset.hdf5.dtype().map_err(cannot_read(path))?;
        match dtype.to_descriptor().map_err(cannot_read(path))? {
            TypeDescriptor::Float(_) | TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_) => {}
            other => {
                return Err(Error::wrong_format(path, format!("\"{name}\" holds {other}, not numbers")));
            }
        }
        // Compares all fields of the type, since there are other floats of these sizes, such as bfloat16.
        let mapped = match dtype.byte_order() {
            ByteOrder::LittleEndian if dtype.is::<f32>() => Some(ElementType::F32),
            ByteOrder::LittleEndian if dtype.is::<f16>() => Some(ElementType::F16),
            _ => None,
        };
        let reader = match dataset.hdf5.offset() {
            Some(offset) if mapped.is_some() && dataset.hdf5.layout() == Layout::Contiguous => {
                Reader::Map { map: dataset.map, start: offset as usize }
            }
            _ => Reader::Hdf5(dataset.hdf5),
        };
        let width = shape[shape.len() - 1];
        let store = Store { reader, shape, width, element_type: mapped.unwrap_or_default() };
        if store.is_slow() {
            // A filter that is not built in shows up only when something is read.
            store.read(path, 0, &mut vec![0.0; width]).map_err(|error| {
                let problem = format!(
                    "\"{name}\" ({}) cannot be read: it is damaged, or compressed in a way that is not built in; \
                     rewrite it with `h5repack -f NONE`",
                    store.describe()
                );
                Error::damaged(path, problem).because(error)
            })?;
        }
        Ok(store)
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type in which to store these values again.
    pub(super) fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// The offset of the values in the file, if they are mapped.
    pub(super) fn offset(&self) -> Option<u64> {
        match self.reader {
            Reader::Map { start, .. } => Some(start as u64),
            Reader::Hdf5(_) => None,
        }
    }

    /// Whether reads go through HDF5 instead of the memory map.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.reader, Reader::Hdf5(_)) && !self.shape.contains(&0)
    }

    /// The name of the element type.
    pub(super) fn dtype(&self) -> String {
        match &self.reader {
            Reader::Map { .. } => match self.element_type {
                ElementType::F32 => "float32".to_owned(),
                ElementType::F16 => "float16".to_owned(),
            },
            Reader::Hdf5(dataset) => {
                dataset.dtype().map_or_else(|_| "unknown type".to_owned(), |dtype| type_in_words(&dtype))
            }
        }
    }

    /// Bytes per value in the file.
    pub(super) fn element_size(&self) -> usize {
        match &self.reader {
            Reader::Map { .. } => self.element_type.size(),
            Reader::Hdf5(dataset) => dataset.dtype().map_or(0, |dtype| dtype.size()),
        }
    }

    /// Describes the element type and layout.
    pub(super) fn describe(&self) -> String {
        let dtype = self.dtype();
        let Reader::Hdf5(dataset) = &self.reader else { return format!("{dtype}, contiguous, memory-mapped") };
        if self.shape.contains(&0) {
            return format!("{dtype}, empty");
        }
        let chunks = match dataset.chunk() {
            Some(chunk) => format!("chunks of {chunk:?}"),
            None => "not chunked".to_owned(),
        };
        let filters = match dataset.filters().len() {
            0 => "no filter".to_owned(),
            n => counted(n, "filter"),
        };
        format!("{dtype}, {chunks}, {filters}, read through HDF5")
    }

    /// Asks the system to fetch `n` rows from the disk in the background.
    pub(super) fn prefetch(&self, first: usize, n: usize) {
        if let Reader::Map { map, start } = &self.reader {
            let row = self.width * self.element_type.size();
            // A hint: if it is refused, reading waits for the disk.
            let _ = map.advise_range(Advice::WillNeed, start + first * row, n * row);
        }
    }

    /// Reads rows `first..first + out.len() / width`, a row being `width` values, as f32.
    pub(super) fn read(&self, path: &Path, first: usize, out: &mut [f32]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        match &self.reader {
            Reader::Map { map, start } => {
                let size = self.element_type.size();
                let start = start + first * self.width * size;
                let bytes = &map[start..start + out.len() * size];
                match self.element_type {
                    ElementType::F32 => copy_f32(bytes, out),
                    ElementType::F16 => widen_f16(bytes, out),
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
                let read = read.map_err(cannot_read(path))?;
                for (to, from) in out.iter_mut().zip(read) {
                    *to = from;
                }
                Ok(())
            }
        }
    }
}

fn copy_f32(bytes: &[u8], out: &mut [f32]) {
    bytemuck::must_cast_slice_mut(out).copy_from_slice(bytes);
    from_little_endian(out);
}

/// Converts values in the byte order of the files to that of this machine.
pub(super) fn from_little_endian(values: &mut [f32]) {
    if cfg!(target_endian = "big") {
        values.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits().swap_bytes()));
    }
}

/// Widens through a small aligned buffer: the map may start at an odd address, and the processor's conversion
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

fn type_in_words(dtype: &Datatype) -> String {
    let Ok(descriptor) = dtype.to_descriptor() else { return "unknown type".to_owned() };
    let is_known = dtype.is::<f16>() || dtype.is::<f32>() || dtype.is::<f64>();
    match (dtype.byte_order(), &descriptor) {
        (ByteOrder::BigEndian, _) => format!("big-endian {descriptor}"),
        // bfloat16, for example, of which HDF5 knows only the bit layout.
        (_, TypeDescriptor::Float(_)) if !is_known => format!("{}-byte float other than IEEE's", dtype.size()),
        _ => descriptor.to_string(),
    }
}
