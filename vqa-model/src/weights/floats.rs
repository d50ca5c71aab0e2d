//! Tensors of weight files from their bytes, whatever the format of the file.

use std::fmt::Debug;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// A tensor on the CPU from the bytes that a file has for it.
pub(super) fn from_bytes(path: &Path, bytes: &[u8], shape: &[usize], kind: Kind) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    Tensor::f_from_data_size(bytes, &shape, kind).map_err(|error| Error::damaged(path, error.to_string(), error))
}

/// That a tensor of a file has a type that weights cannot have.
pub(super) fn not_float(path: &Path, name: &str, dtype: impl Debug) -> Error {
    Error::weights_mismatch(path, format!("\"{name}\" is {dtype:?}, and a float type is wanted"))
}
