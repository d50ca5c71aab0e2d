//! Tensors in files of weights, independent of the file format.

use std::io;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// A tensor in a file. Its values are read on request, so that whatever a file claims to contain costs nothing until it
/// is needed.
pub(super) struct StoredTensor {
    /// The keys of the dictionaries around it, from the outermost inwards, and its own.
    pub(super) keys: Vec<String>,
    pub(super) shape: Vec<i64>,
    /// libtorch's type; `None` if it has no such type.
    pub(super) kind: Option<Kind>,
    /// The format's name for the type.
    pub(super) dtype: String,
    /// Reads the values, contiguous and in this machine's byte order.
    pub(super) read: Box<dyn Fn() -> io::Result<Vec<u8>>>,
}

impl StoredTensor {
    /// Returns its name in a `state_dict`.
    pub(super) fn name(&self) -> String {
        self.keys.join(".")
    }

    /// Whether its type is one that weights can have: float32, float16, bfloat16 or float64.
    pub(super) fn is_float(&self) -> bool {
        self.kind.is_some_and(is_float)
    }

    /// Whether it contains integers.
    pub(super) fn is_integer(&self) -> bool {
        use Kind::{Bool, Int, Int8, Int16, Int64, Uint8};
        matches!(self.kind, Some(Int64 | Int | Int16 | Int8 | Uint8 | Bool))
    }

    /// Reads its values to the CPU.
    pub(super) fn read(&self, path: &Path) -> Result<Tensor> {
        let Some(kind) = self.kind else { return Err(self.not_float(path)) };
        let bytes = (self.read)().map_err(|error| Error::damaged(path, damaged(&error.to_string()), error))?;
        from_bytes(path, &bytes, &self.shape, kind)
    }

    /// Returns the error for a type that weights cannot have.
    pub(super) fn not_float(&self, path: &Path) -> Error {
        let (name, dtype) = (self.name(), &self.dtype);
        Error::weights_mismatch(path, format!("\"{name}\" is {dtype}, not a float type"))
    }
}

/// Whether weights can have this type.
pub(super) fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double)
}

/// Converts a shape to libtorch's type. Lengths beyond its range become the largest possible one, which no file can
/// hold.
pub(super) fn libtorch_shape(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX)).collect()
}

/// Creates a tensor on the CPU from its bytes in a file.
pub(super) fn from_bytes(path: &Path, bytes: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor> {
    let n_values = shape.iter().try_fold(1usize, |n, &length| n.checked_mul(length.try_into().ok()?));
    // If there were too few bytes, libtorch would read past their end.
    if n_values.and_then(|n| n.checked_mul(kind.elt_size_in_bytes())) != Some(bytes.len()) {
        let problem = damaged(&format!("{} bytes for a tensor of shape {shape:?}", bytes.len()));
        return Err(Error::DamagedWeights { path: path.to_owned(), problem, source: None });
    }
    Tensor::f_from_data_size(bytes, shape, kind).map_err(|error| Error::damaged(path, error.to_string(), error))
}

fn damaged(why: &str) -> String {
    format!("a damaged file ({why}): copy it again, or take the checkpoint of another epoch")
}
