//! Weights as safetensors, named as in PyTorch.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, View};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::{AtomicFile, map_file};

use crate::pth::{is_pth, read_pth};
use crate::{Error, Result};

/// Text about a file, stored in its header (safetensors calls it metadata).
pub type Header = BTreeMap<String, String>;

/// A float tensor on its way to a file.
struct Stored {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes named tensors as float32, whole or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], header: Header) -> Result<()> {
    let stored = tensors.iter().map(|(name, tensor)| {
        let shape = tensor.size().iter().map(|&length| length as usize).collect();
        let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
        let numbers = Vec::<f32>::try_from(&flat).expect("a flat float tensor on the CPU");
        (name, Stored { shape, bytes: numbers.into_iter().flat_map(f32::to_le_bytes).collect() })
    });
    let bytes = safetensors::serialize(stored, None)
        .map_err(|error| Error::Weights { path: path.to_owned(), problem: error.to_string() })?;
    let (header, data) = with_metadata(&bytes, &header);
    let file = AtomicFile::create(path)?;
    let write = || {
        let mut out = File::create(file.path())?;
        out.write_all(&header)?;
        out.write_all(data)
    };
    write().map_err(vqa_data::Error::io("write", path))?;
    Ok(file.finish()?)
}

/// Puts metadata into the header of a serialised file: the new header, and the data that follows it. The library would
/// store them in the order of a hash map, and the same run would give another file each time.
fn with_metadata<'a>(bytes: &'a [u8], metadata: &Header) -> (Vec<u8>, &'a [u8]) {
    const PREFIX: usize = 8;
    let (length, rest) = bytes.split_at(PREFIX);
    let length = u64::from_le_bytes(length.try_into().expect("split at 8")) as usize;
    let (tensors, data) = rest.split_at(length);
    let mut header = b"{\"__metadata__\":".to_vec();
    header.extend(serde_json::to_vec(metadata).expect("strings are valid JSON"));
    // The tensors' own header is an object too: `{"name": …}` and padding.
    if tensors.trim_ascii() != b"{}" {
        header.push(b',');
    }
    header.extend(&tensors.trim_ascii()[1..]);
    header.resize(header.len().next_multiple_of(PREFIX), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    (file, data)
}

/// Reads all tensors of a file, on the CPU.
///
/// # Errors
///
/// When the file is missing, damaged, or has other than float32, float16, bfloat16 or float64.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let bytes = map_file(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| not_safetensors(path, &error))?;
    let mut read = Vec::new();
    for (name, view) in tensors.iter() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            other => {
                let problem = format!("\"{name}\" is {other:?}, and a float type is wanted");
                return Err(Error::Weights { path: path.to_owned(), problem });
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&length| length as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)
            .map_err(|error| Error::Weights { path: path.to_owned(), problem: error.to_string() })?;
        read.push((name.to_owned(), tensor));
    }
    Ok(read)
}

/// Reads the header of a file.
///
/// # Errors
///
/// When the file is missing or damaged.
pub fn read_header(path: &Path) -> Result<Header> {
    let bytes = map_file(path)?;
    let (_, metadata): (usize, Metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|error| not_safetensors(path, &error))?;
    Ok(metadata.metadata().clone().unwrap_or_default().into_iter().collect())
}

/// Writes a model's weights, by their PyTorch names, whole or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn save_weights(vs: &VarStore, path: &Path, header: Header) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write_tensors(path, &tensors, header)
}

/// Reads weights into a model: every parameter, by name, and nothing else. A file named `.pth`, `.pt` or `.bin` is one of
/// PyTorch's ([`read_pth`]), any other safetensors.
///
/// # Errors
///
/// When the file is damaged, or is of another model: the message names what is missing, what is left over and
/// what has another shape. The model is then as it was.
pub fn load_weights(vs: &VarStore, path: &Path) -> Result<()> {
    let read = if is_pth(path) { read_pth } else { read_tensors };
    let mut found: HashMap<String, Tensor> = read(path)?.into_iter().collect();
    let mut pairs = Vec::new();
    let mut problems = Vec::new();
    let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, variable) in variables {
        match found.remove(&name) {
            Some(tensor) if tensor.size() == variable.size() => pairs.push((variable, tensor)),
            Some(tensor) => {
                problems.push(format!("{name} is {:?} in the file and {:?} here", tensor.size(), variable.size()));
            }
            None => problems.push(format!("{name} is missing")),
        }
    }
    let mut extra: Vec<String> = found.into_keys().collect();
    extra.sort();
    problems.extend(extra.into_iter().map(|name| format!("{name} is not in this model")));
    if problems.is_empty() {
        tch::no_grad(|| pairs.into_iter().for_each(|(mut variable, tensor)| variable.copy_(&tensor)));
        return Ok(());
    }
    const SHOWN: usize = 3;
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Err(Error::Weights {
        path: path.to_owned(),
        problem: format!(
            "weights of another model: {}; use the config and dictionaries that it was trained with",
            problems.join("; ")
        ),
    })
}

fn not_safetensors(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::Weights {
        path: path.to_owned(),
        problem: format!(
            "not a whole safetensors file ({error}): take the checkpoint of another epoch, or copy it again"
        ),
    }
}
