//! A backbone by its name.

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

/// The names of the networks that are built in.
pub const NAMES: [&str; 4] = ["mobilenet-v2", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"];

/// How a backbone is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Where it computes.
    pub device: Device,
    /// The file of its weights, if it is not where `make setup` puts it.
    pub weights: Option<PathBuf>,
    /// How it wants its pictures, where that is not what the network, or the TOML file beside a TorchScript file, says.
    pub preprocessing: PreprocessingOptions,
    /// The number format of the arithmetic. bfloat16 has 8 bits of precision: the features of fifty layers are then off
    /// by up to a tenth of the largest, so it is never chosen unasked. It pays on GPUs, and on CPUs that multiply in
    /// it.
    pub precision: Precision,
}

impl OpenOptions {
    /// In float32, with the weights of `make setup`.
    pub fn new(device: Device) -> OpenOptions {
        OpenOptions {
            device,
            weights: None,
            preprocessing: PreprocessingOptions::default(),
            precision: Precision::Fp32,
        }
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
/// When there is no such network; when its weights are not there, damaged, or those of another; when a TorchScript file
/// gives neither a map nor boxes; when memory is full.
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

/// Opens one of the [`NAMES`], which can name the class of a picture too.
///
/// # Errors
///
/// When there is no such network; when its weights are not there, damaged, or those of another; when memory is full.
pub fn open_built_in(name: &str, options: &OpenOptions) -> Result<ConvNet> {
    let architecture = architecture(name).ok_or_else(|| unknown(name))?;
    let weights = match &options.weights {
        Some(path) => path.clone(),
        None => find_weights(name)?,
    };
    let sha256 = sha256(&weights)?;
    let mut network = ConvNet::load(name, &architecture, &weights, sha256, options.device, options.precision)?;
    network.set_preprocessing(options.preprocessing.over(&architecture.preprocessing)?);
    Ok(network)
}

/// The architecture of a built-in network.
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
