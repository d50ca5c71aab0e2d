//! Tensors of another type from float32 values, written in parallel and in a single pass.

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::cpu::kernels;
use crate::cpu::slice::{CHUNK, Number, from_rows};

/// Returns values times a factor, as a tensor of type `T`.
pub(crate) fn scaled<T: Number>(values: &[f32], shape: &[i64], factor: f32) -> Tensor {
    assert_eq!(values.len() as i64, shape.iter().product::<i64>(), "as many values as the shape has");
    from_rows::<T>(shape, CHUNK, |i, into| kernels::write_scaled(into, factor, &values[i * CHUNK..][..into.len()]))
}

/// Returns values as a tensor of this type on this device.
pub(crate) fn tensor(values: &[f32], shape: &[i64], device: Device, kind: Kind) -> Tensor {
    match (device, kind) {
        (Device::Cpu, Kind::Float) => scaled::<f32>(values, shape, 1.0),
        (Device::Cpu, Kind::BFloat16) => scaled::<bf16>(values, shape, 1.0),
        _ => Tensor::from_slice(values).view(shape).to_device(device).to_kind(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtorch converts them, chunk by chunk.
    #[test]
    fn values_are_those_of_libtorch() {
        tch::manual_seed(1);
        for n in [0, 1, CHUNK as i64, 3 * CHUNK as i64 + 5] {
            let tensor_of_floats = Tensor::randn([n], (Kind::Float, Device::Cpu));
            let values = Vec::<f32>::try_from(&tensor_of_floats).unwrap();
            for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
                let found = tensor(&values, &[n, 1], Device::Cpu, kind);
                assert_eq!(found, tensor_of_floats.view([n, 1]).to_kind(kind));
            }
        }
    }
}
