//! Opens a backbone by its name.

use std::path::{Path, PathBuf};

use tch::Device;

use crate::backbone::architecture::Architecture;
use crate::backbone::backbone::Backbone;
use crate::backbone::convnet::ConvNet;
use crate::backbone::efficientnet_lite::Lite;
use crate::backbone::location::{find_weights, sha256};
use crate::backbone::mobilenet_v2;
use crate::backbone::preprocessing::PreprocessingOptions;
use crate::backbone::torchscript::TorchScript;
use crate::error::{Error, Result};
use crate::feed::options::Precision;

/// The names of the built-in networks.
pub const NAMES: [&str; 4] = ["mobilenet-v2", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"];

/// How a backbone is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The device that it computes on.
    pub device: Device,
    /// The file of its weights, if it is not where `make setup` puts it.
    pub weights: Option<PathBuf>,
    /// Overrides for the preprocessing that the network, or the TOML file beside a TorchScript file, specifies.
    pub preprocessing: PreprocessingOptions,
    /// The number format of the arithmetic. bfloat16 has 8 bits of precision: after fifty layers, features are off by
    /// up to a tenth of the largest, so it must be chosen explicitly. It is faster on GPUs, and on CPUs with bfloat16
    /// instructions.
    pub precision: Precision,
}

impl OpenOptions {
    /// Returns options for float32 and the weights that `make setup` installs.
    pub fn new(device: Device) -> OpenOptions {
        OpenOptions {
            device,
            weights: None,
            preprocessing: PreprocessingOptions::default(),
            precision: Precision::Fp32,
        }
    }
}

/// Opens one of the [`NAMES`], or a TorchScript file by its path, in float32. Without `weights`, they are searched for
/// as by [`find_weights`].
///
/// # Errors
///
/// Those of [`open_with`].
pub fn open(name_or_path: &str, weights: Option<&Path>, device: Device) -> Result<Box<dyn Backbone>> {
    open_with(name_or_path, &OpenOptions { weights: weights.map(Path::to_owned), ..OpenOptions::new(device) })
}

/// Opens one of the [`NAMES`], or a TorchScript file by its path.
///
/// # Errors
///
/// When there is no such network; when its weights are missing, damaged, or those of another network; when a
/// TorchScript file returns neither a map nor boxes; when memory is full.
pub fn open_with(name_or_path: &str, options: &OpenOptions) -> Result<Box<dyn Backbone>> {
    if architecture(name_or_path).is_some() {
        return Ok(Box::new(open_built_in(name_or_path, options)?));
    }
    let path = Path::new(name_or_path);
    if path.components().count() < 2 && path.extension().is_none() && !path.exists() {
        return Err(unknown(name_or_path));
    }
    if options.weights.is_some() {
        return Err(Error::Backbone(format!(
            "{name_or_path}: a TorchScript file contains its weights: --weights is for {}",
            NAMES.join(", ")
        )));
    }
    Ok(Box::new(TorchScript::open(path, options.device, &options.preprocessing, options.precision)?))
}

/// Opens one of the [`NAMES`] as a [`ConvNet`], which can also classify pictures.
///
/// # Errors
///
/// When there is no such network; when its weights are missing, damaged, or those of another network; when memory is
/// full.
pub fn open_built_in(name: &str, options: &OpenOptions) -> Result<ConvNet> {
    let architecture = architecture(name).ok_or_else(|| unknown(name))?;
    let weights = match &options.weights {
        Some(path) => path.clone(),
        None => find_weights(name)?,
    };
    let sha256 = sha256(&weights)?;
    let mut network = ConvNet::load(name, &architecture, &weights, sha256, options.device, options.precision)?;
    network.set_preprocessing(options.preprocessing.apply_to(&architecture.preprocessing)?);
    Ok(network)
}

/// Returns the architecture of a built-in network; `None` if there is none with this name.
fn architecture(name: &str) -> Option<Architecture> {
    Some(match name {
        "mobilenet-v2" => mobilenet_v2::architecture(),
        "efficientnet-lite0" => Lite::Lite0.architecture(),
        "efficientnet-lite1" => Lite::Lite1.architecture(),
        "efficientnet-lite2" => Lite::Lite2.architecture(),
        _ => return None,
    })
}

fn unknown(name: &str) -> Error {
    Error::Backbone(format!(
        "there is no backbone \"{name}\": use {}, or the path of a TorchScript file",
        NAMES.join(", ")
    ))
}
