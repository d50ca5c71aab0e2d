//! Weights from PyTorch's own files.

use std::path::Path;

use pytorch_reader::{DType, PytorchReader};
use tch::{Kind, Tensor};
use vqa_data::files::open_input;

use crate::error::{Error, Result};
use crate::weights::floats::{from_bytes, not_float};

/// What `torch.save` was given besides the plain `state_dict`: a dictionary with the `state_dict` in it, or that of a
/// `DataParallel`.
const PREFIXES: [&str; 4] = ["state_dict.", "model_state_dict.", "model.", "module."];

/// Whether a file is PyTorch's own, by its name.
pub(crate) fn is_pth(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["pth", "pt", "bin"].iter().any(|name| extension.eq_ignore_ascii_case(name)))
}

/// Reads the tensors of a `state_dict` that `torch.save` wrote, on the CPU. The pickle in it is data here: no code of
/// it is run, and nothing but tensors in dictionaries is understood.
///
/// # Errors
///
/// When the file is missing or damaged, or has a tensor that is not float32, float16, bfloat16 or float64.
pub fn read_pth(path: &Path) -> Result<Vec<(String, Tensor)>> {
    open_input(path)?;
    let mut found: Vec<_> =
        PytorchReader::new(path).map_err(|error| damaged(path, error))?.into_tensors().into_iter().collect();
    for prefix in PREFIXES {
        if found.iter().any(|(name, _)| name.starts_with(prefix)) {
            let below = |(name, tensor): (String, _)| Some((name.strip_prefix(prefix)?.to_owned(), tensor));
            found = found.into_iter().filter_map(below).collect();
        }
    }
    if found.is_empty() {
        let problem = not_a_state_dict("no tensors in it");
        return Err(Error::DamagedWeights { path: path.to_owned(), problem, source: None });
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let read = found.into_iter().map(|(name, tensor)| {
        let kind = match tensor.dtype() {
            DType::F32 => Kind::Float,
            DType::F16 => Kind::Half,
            DType::BF16 => Kind::BFloat16,
            DType::F64 => Kind::Double,
            other => return Err(not_float(path, &name, other)),
        };
        let bytes = tensor.read().map_err(|error| damaged(path, error))?;
        let tensor = from_bytes(path, &bytes, tensor.shape(), kind)?;
        Ok((name, tensor))
    });
    read.collect()
}

fn damaged(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::damaged(path, not_a_state_dict(&error.to_string()), error)
}

fn not_a_state_dict(why: &str) -> String {
    format!("not a whole state_dict of PyTorch ({why}): save it again, with torch.save(model.state_dict(), …)")
}
