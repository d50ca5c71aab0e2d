//! Reads weights from PyTorch's own files.

use std::io::BufReader;
use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchReader};
use tch::Kind;
use vqa_data::files::open_input;
use zip::ZipArchive;

use crate::error::{Error, Result};
use crate::weights::stored::{StoredTensor, libtorch_shape};

/// Returns the tensors of a file that `torch.save` wrote, without reading their values. Its pickle is treated as data:
/// no code in it is run, and only tensors in dictionaries, lists and modules are understood.
///
/// # Errors
///
/// When the file is missing or damaged, or is an archive that `torch.save` did not write.
pub(super) fn stored_tensors(path: &Path) -> Result<Vec<StoredTensor>> {
    check_zip(path)?;
    check_tar(path)?;
    // The reader joins keys with dots to names, but keys may contain dots themselves, so the keys are collected first.
    let object = PytorchReader::read_pickle_data(path, None).map_err(|error| damaged(path, error))?;
    let all_keys = keys_of_tensors(object).map_err(|why| problem(path, not_a_state_dict(why)))?;
    let mut tensors = PytorchReader::new(path).map_err(|error| damaged(path, error))?.into_tensors();
    let stored = all_keys.into_iter().map(|keys| {
        let name = keys.join(".");
        let Some(tensor) = tensors.remove(&name) else {
            return Err(problem(path, not_a_state_dict(&format!("two tensors named \"{name}\""))));
        };
        Ok(StoredTensor {
            keys,
            shape: libtorch_shape(tensor.shape()),
            kind: kind(tensor.dtype()),
            dtype: format!("{:?}", tensor.dtype()),
            read: Box::new(move || tensor.read()),
        })
    });
    stored.collect()
}

/// Returns the path of keys to each tensor of an object, from the outermost dictionary or list inwards; or says what is
/// wrong with the object.
fn keys_of_tensors(object: PickleValue) -> Result<Vec<Vec<String>>, &'static str> {
    /// Limits against a small file that claims many tensors with very many or very long keys. No real module exceeds
    /// them.
    const MAX_DEPTH: usize = 64;
    const MAX_BYTES: usize = 64 << 20;
    let is_tensor = |value: &PickleValue| matches!(value, PickleValue::Unsupported(kind) if kind == "torch.Tensor");
    let may_hold_tensors = |value: &PickleValue| matches!(value, PickleValue::Dict(_) | PickleValue::List(_));
    let mut found = Vec::new();
    let mut n_bytes = 0;
    let mut unread = Vec::new();
    // A lone tensor has no name.
    if may_hold_tensors(&object) {
        unread.push((Vec::new(), object));
    }
    while let Some((keys, value)) = unread.pop() {
        let items: Vec<(String, PickleValue)> = match value {
            PickleValue::Dict(items) => items.into_iter().collect(),
            PickleValue::List(items) => items.into_iter().enumerate().map(|(i, item)| (i.to_string(), item)).collect(),
            _ => {
                found.push(keys);
                continue;
            }
        };
        if keys.len() == MAX_DEPTH {
            return Err("dictionaries or lists nested too deep");
        }
        let len: usize = keys.iter().map(|key: &String| key.len() + size_of::<String>()).sum();
        for (key, item) in items.into_iter().filter(|(_, item)| is_tensor(item) || may_hold_tensors(item)) {
            n_bytes += len + key.len();
            if n_bytes > MAX_BYTES {
                return Err("too many tensors, or names that are too long");
            }
            unread.push((keys.iter().cloned().chain([key]).collect(), item));
        }
    }
    if found.is_empty() { Err("no tensors in it") } else { Ok(found) }
}

/// Refuses zip archives that are not a state dict, saying what they are instead, and pickles whose uncompressed size
/// exceeds that of the file: PyTorch does not compress.
fn check_zip(path: &Path) -> Result<()> {
    let file = open_input(path)?;
    let len = file.metadata().map_err(vqa_data::Error::io("read", path))?.len();
    // Other files, and damaged archives, are left for the reader to judge.
    let Ok(mut archive) = ZipArchive::new(BufReader::new(file)) else { return Ok(()) };
    let Ok(names) = archive.file_names().collect::<Result<Vec<_>, _>>() else { return Ok(()) };
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let is_in = |file: &str| is_in(&names, file);
    if is_in(OF_TORCHSCRIPT) {
        let remedy = "save its weights in Python, torch.save(torch.jit.load(FILE).state_dict(), …)";
        return Err(problem(path, format!("a TorchScript archive, not weights alone: {remedy}")));
    }
    if !is_in("data.pkl") {
        return Err(problem(path, not_a_state_dict("a zip archive of something else: it has no data.pkl")));
    }
    for name in names.iter().filter(|name| name.ends_with("data.pkl")) {
        let size = archive.index_for_name(name).and_then(|index| Some(archive.by_index_raw(index).ok()?.size()));
        if size.is_some_and(|size| size > len) {
            return Err(problem(path, not_a_state_dict(&format!("{name} in it is larger than the file"))));
        }
    }
    Ok(())
}

/// Whether a file is a zip archive of a TorchScript module, rather than of weights alone.
pub(crate) fn is_torchscript(path: &Path) -> Result<bool> {
    let file = open_input(path)?;
    let Ok(archive) = ZipArchive::new(BufReader::new(file)) else { return Ok(false) };
    let Ok(names) = archive.file_names().collect::<Result<Vec<_>, _>>() else { return Ok(false) };
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    Ok(is_in(&names, OF_TORCHSCRIPT))
}

/// A file that only the archive of a TorchScript module contains.
const OF_TORCHSCRIPT: &str = "constants.pkl";

/// Whether an archive contains a file of this name, in any directory.
fn is_in(names: &[String], file: &str) -> bool {
    names.iter().any(|name| name == file || name.ends_with(&format!("/{file}")))
}

/// Refuses a tar archive with a sparse file: the zeros that it leaves out may exceed any memory.
fn check_tar(path: &Path) -> Result<()> {
    let file = open_input(path)?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let Ok(entries) = archive.entries() else { return Ok(()) };
    let is_sparse = |entry: &tar::Entry<_>| entry.header().entry_type().is_gnu_sparse();
    match entries.map_while(|entry| entry.ok()).any(|entry| is_sparse(&entry)) {
        true => Err(problem(path, not_a_state_dict("a tar archive with sparse files"))),
        false => Ok(()),
    }
}

/// Returns libtorch's equivalent of a type, if there is one.
fn kind(dtype: DType) -> Option<Kind> {
    Some(match dtype {
        DType::F64 => Kind::Double,
        DType::F32 => Kind::Float,
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::I64 => Kind::Int64,
        DType::I32 => Kind::Int,
        DType::I16 => Kind::Int16,
        DType::I8 => Kind::Int8,
        DType::U8 => Kind::Uint8,
        DType::Bool => Kind::Bool,
        DType::U64 | DType::U32 | DType::U16 => return None,
    })
}

fn damaged(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::damaged(path, not_a_state_dict(&error.to_string()), error)
}

fn problem(path: &Path, problem: String) -> Error {
    Error::DamagedWeights { path: path.to_owned(), problem, source: None }
}

fn not_a_state_dict(why: &str) -> String {
    format!("not a complete PyTorch state_dict ({why}): save it again, with torch.save(model.state_dict(), …)")
}
