//! A value that changes at every step.

use tch::{Device, Kind, Tensor};

/// A value that changes at every step. On a GPU it has memory of its own, from which a recorded step reads it at each
/// replay.
#[derive(Debug)]
pub(super) struct StepScalar {
    pub(super) value: f64,
    /// A scalar, float32; `None` on a CPU.
    pub(super) on_gpu: Option<Tensor>,
}

impl StepScalar {
    /// Zero, for tensors on this device.
    pub(super) fn new(device: Device) -> StepScalar {
        let on_gpu = (device != Device::Cpu).then(|| Tensor::zeros([], (Kind::Float, device)));
        StepScalar { value: 0.0, on_gpu }
    }

    /// Sets the value for all operations that are queued after this.
    pub(super) fn set(&mut self, value: f64) {
        self.value = value;
        if let Some(on_gpu) = &mut self.on_gpu {
            let _ = on_gpu.fill_(value);
        }
    }
}
