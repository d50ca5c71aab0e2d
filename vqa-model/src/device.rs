//! The device that a config names.

use tch::{Cuda, Device};

use crate::error::{Error, Result};
use crate::feed::Precision;

/// Parses the name of a device in a config: `auto` (the first GPU if there is one, else the CPU), `cpu`, `cuda`,
/// `cuda:1`.
///
/// # Errors
///
/// When the name is none of these, or names a GPU that cannot be used; the message says why.
pub fn parse_device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" if !has_driver() => Ok(Device::Cpu),
        "auto" => Ok(load_cuda().map_or_else(
            |reason| {
                tracing::warn!("there is an NVIDIA driver, but {reason}");
                Device::Cpu
            },
            |_| Device::Cuda(0),
        )),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|index| index.parse().ok()),
                None => None,
            };
            let Some(index) = index else {
                return Err(Error::Device(format!(
                    "device = \"{name}\" is unknown: use \"auto\", \"cpu\", \"cuda\" or \"cuda:1\""
                )));
            };
            let n_devices = load_cuda().map_err(Error::Device)?;
            if index >= n_devices {
                return Err(Error::Device(format!(
                    "there is no GPU {index}: they are counted from 0, and the last one is {}",
                    n_devices - 1
                )));
            }
            Ok(Device::Cuda(index))
        }
    }
}

/// Warns if the device computes faster in float32 than in this precision.
pub fn warn_if_slow(device: Device, precision: Precision) {
    if precision == Precision::Bf16 && device == Device::Cpu && !cpu_multiplies_bf16() {
        tracing::warn!(
            "bf16 will be slow: this processor has no bf16 arithmetic, so it computes in float32 and rounds the results"
        );
    }
}

/// Whether this processor has instructions for products of bfloat16 matrices that libtorch uses.
fn cpu_multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Loads libtorch's CUDA library and returns the number of GPUs, or says what is missing.
///
/// Nothing in this program refers to a symbol of `libtorch_cuda.so`, so the linker drops it, and libtorch then believes
/// that it was built without CUDA. Loading the library registers its kernels (LaurentMazare/tch-rs issues 907 and 980).
/// Since it is large, it is loaded only if there is an NVIDIA driver.
#[allow(unsafe_code)]
fn load_cuda() -> std::result::Result<usize, String> {
    if !has_driver() {
        return Err("no GPU can be used: there is no NVIDIA driver (libcuda.so.1); use the device \"cpu\"".to_owned());
    }
    // SAFETY: this is the library that the program would be linked against; its initialisers are meant to run on
    // loading, and do so here instead of at program start.
    match unsafe { libloading::Library::new("libtorch_cuda.so") } {
        Ok(library) => std::mem::forget(library),
        Err(error) => {
            return Err(format!(
                "no GPU can be used: this libtorch has no CUDA part, or lacks a library for it ({error}); use \
                 the device \"cpu\""
            ));
        }
    }
    match Cuda::device_count() {
        n if n > 0 => Ok(n as usize),
        _ => Err("no GPU can be used: the NVIDIA driver shows none, or is too old for this libtorch".to_owned()),
    }
}

#[allow(unsafe_code)]
fn has_driver() -> bool {
    // SAFETY: the driver's initialisers are meant to run on loading.
    match unsafe { libloading::Library::new("libcuda.so.1") } {
        Ok(driver) => {
            std::mem::forget(driver);
            true
        }
        Err(_) => false,
    }
}
