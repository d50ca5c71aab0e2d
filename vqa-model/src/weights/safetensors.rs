//! Weights as safetensors, with PyTorch's parameter names.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, View};
use tch::{Device, Kind, Tensor};
use vqa_data::files::{AtomicFile, open_input};

use crate::error::{Error, Result};
use crate::weights::format::Format;
use crate::weights::stored::{StoredTensor, libtorch_shape};

/// Text entries about a file, stored in its header (safetensors calls them metadata).
pub type Header = BTreeMap<String, String>;

/// The single metadata entry that contains the entire [`Header`], as a JSON object. safetensors would write separate
/// entries in the order of a hash map, so that the same run would produce a different file each time.
const ENTRY: &str = "vqa";

/// A tensor to be written as float32. It is converted only when it is written, so that at most one tensor is copied at
/// a time.
struct Stored {
    shape: Vec<usize>,
    tensor: Tensor,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let flat = self.tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
        let values = Vec::<f32>::try_from(&flat).expect("a flat float tensor on the CPU");
        Cow::Owned(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.tensor.numel()
    }
}

/// Writes named tensors as float32. The file is written completely or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], header: Header) -> Result<()> {
    let stored = tensors.iter().map(|(name, tensor)| {
        let shape = tensor.size().iter().map(|&length| length as usize).collect();
        (name, Stored { shape, tensor: tensor.shallow_clone() })
    });
    let header = serde_json::to_string(&header).expect("strings are valid JSON");
    let metadata = HashMap::from([(ENTRY.to_owned(), header)]);
    let file = AtomicFile::create(path)?;
    safetensors::serialize_to_file(stored, Some(metadata), file.path()).map_err(|error| match error {
        SafeTensorError::IoError(error) => vqa_data::Error::io("write", path)(error).into(),
        // Not expected: safetensors accepts the names, shapes and sizes of any model's tensors.
        other => Error::damaged(path, other.to_string(), other),
    })?;
    Ok(file.finish()?)
}

/// Reads all tensors of a file to the CPU.
///
/// # Errors
///
/// When the file is missing or damaged, or has a tensor that is not float32, float16, bfloat16 or float64.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    Format::expect_safetensors(path)?;
    let read = stored_tensors(path)?.into_iter().map(|stored| match stored.is_float() {
        true => Ok((stored.name(), stored.read(path)?)),
        false => Err(stored.not_float(path)),
    });
    read.collect()
}

/// Returns the tensors of a file, without copying their values.
pub(super) fn stored_tensors(path: &Path) -> Result<Vec<StoredTensor>> {
    let mut bytes = Vec::new();
    open_input(path)?.read_to_end(&mut bytes).map_err(vqa_data::Error::io("read", path))?;
    let bytes = Rc::new(bytes);
    let (header_len, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| not_safetensors(path, error))?;
    let stored = metadata.tensors().into_iter().map(|(name, info)| {
        let bytes = Rc::clone(&bytes);
        let (start, end) = info.data_offsets;
        let place = 8 + header_len + start..8 + header_len + end;
        StoredTensor {
            keys: vec![name],
            shape: libtorch_shape(&info.shape),
            kind: kind(info.dtype),
            dtype: info.dtype.to_string(),
            read: Box::new(move || Ok(bytes[place.clone()].to_vec())),
        }
    });
    Ok(stored.collect())
}

/// Returns libtorch's equivalent of a type, if there is one.
fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

/// Reads only the header of a file.
///
/// # Errors
///
/// When the file is missing or damaged.
pub fn read_header(path: &Path) -> Result<Header> {
    Format::expect_safetensors(path)?;
    let (len, start) = read_start(open_input(path)?).map_err(vqa_data::Error::io("read", path))?;
    let metadata: Metadata = serde_json::from_slice(&start)
        .map_err(|error| not_safetensors(path, SafeTensorError::InvalidHeaderDeserialization(error)))?;
    if (8 + start.len() + metadata.data_len()) as u64 != len {
        return Err(not_safetensors(path, SafeTensorError::MetadataIncompleteBuffer));
    }
    let entries = metadata.metadata().clone().unwrap_or_default();
    match entries.get(ENTRY).map(|header| serde_json::from_str(header)) {
        Some(Ok(header)) => Ok(header),
        // Other programs and older versions write an entry for each key.
        _ => Ok(entries.into_iter().collect()),
    }
}

/// Returns the length of a file, and the JSON at its start, whose length is in the first eight bytes. If that is more
/// than the file has, the JSON is empty or cut short.
fn read_start(mut file: File) -> std::io::Result<(u64, Vec<u8>)> {
    let len = file.metadata()?.len();
    let mut start = [0; 8];
    let n_read = file.by_ref().take(8).read(&mut start)?;
    let claimed = if n_read == 8 { u64::from_le_bytes(start) } else { 0 };
    let mut json = Vec::new();
    if claimed <= len {
        file.take(claimed).read_to_end(&mut json)?;
    }
    Ok((len, json))
}

fn not_safetensors(path: &Path, error: SafeTensorError) -> Error {
    let problem =
        format!("not a complete safetensors file ({error}): take the checkpoint of another epoch, or copy it again");
    Error::damaged(path, problem, error)
}
