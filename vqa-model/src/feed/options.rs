//! How batches go to a device.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::feed::cuda::allow_tf32;

/// Number format of the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32 throughout.
    #[default]
    Fp32,
    /// On a GPU, products of float32 matrices in TF32, which has 11 bits of precision; elsewhere as `fp32`.
    Tf32,
    /// bfloat16 arithmetic with float32 weights.
    Bf16,
}

/// Where the features of all images are while a model is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeaturesOnDevice {
    /// On the GPU, if there is one and they fit on it with 4 GiB to spare.
    #[default]
    Auto,
    /// On the device, a CPU included.
    Always,
    /// In their file.
    Never,
}

impl Precision {
    /// The libtorch type of the features and of the arithmetic on them.
    pub fn kind(self) -> Kind {
        match self {
            Precision::Fp32 | Precision::Tf32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        }
    }

    /// Sets, for the entire process, whether a GPU may use TF32; there is nothing to set for a CPU.
    pub fn set_tf32(self, device: Device) {
        if device.is_cuda() {
            allow_tf32(self == Precision::Tf32);
        }
    }
}

/// How a [`Feed`](crate::feed::Feed) brings batches to a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedOptions {
    /// The device.
    pub device: Device,
    /// The number type of the features, and so of the arithmetic.
    pub kind: Kind,
    /// How many parts a batch is split into.
    pub n_parts: usize,
    /// Whether the features of all images are copied to the device once, rather than those of each batch.
    pub features_on_device: FeaturesOnDevice,
}

impl FeedOptions {
    /// Unsplit batches in float32, with their features read batch by batch.
    pub fn new(device: Device) -> FeedOptions {
        FeedOptions { device, kind: Kind::Float, n_parts: 1, features_on_device: FeaturesOnDevice::Never }
    }
}
