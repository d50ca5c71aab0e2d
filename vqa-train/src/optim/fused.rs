//! Clipping and Adamax on a GPU in one pass over memory.

use tch::{Device, Tensor};
use vqa_model::feed::{CudaKernel, CudaModule, KernelArgument};

use crate::config::AdamaxConfig;

/// The kernel in `adamax.cu`.
#[derive(Debug)]
pub(super) struct FusedAdamax(CudaKernel);

/// The tensors of a step, all flat and of the same length.
pub(super) struct AdamaxTensors<'a> {
    pub(super) values: &'a mut Tensor,
    pub(super) gradients: &'a mut Tensor,
    pub(super) exp_avg: &'a mut Tensor,
    pub(super) exp_inf: &'a mut Tensor,
}

impl FusedAdamax {
    /// Loads the kernel for a device. Returns `None` for a CPU, or if the driver refuses the kernel.
    pub(super) fn new(device: Device) -> Option<FusedAdamax> {
        CudaModule::load(device, include_str!("adamax.cu"), "the optimiser runs", |module| module.kernel("adamax"))
            .map(FusedAdamax)
    }

    /// Clips the gradients, moves the parameters against them, and zeroes them. `norm` is the norm of all gradients and
    /// its limit, if they are to be clipped; it and `step_size` are scalars on the device.
    ///
    /// # Errors
    ///
    /// When CUDA refuses.
    #[allow(unsafe_code)]
    pub(super) fn step(
        &self,
        AdamaxTensors { values, gradients, exp_avg, exp_inf }: AdamaxTensors,
        norm: Option<(&Tensor, f64)>,
        step_size: &Tensor,
        weight_decay: f64,
        config: &AdamaxConfig,
    ) -> Result<(), String> {
        const N_THREADS: u32 = 256;
        let n = values.numel();
        assert!(n.is_multiple_of(4) && [&*gradients, exp_avg, exp_inf].iter().all(|flat| flat.numel() == n));
        let n = n / 4;
        if n == 0 {
            return Ok(());
        }
        let AdamaxConfig { betas: [beta1, beta2], eps, .. } = *config;
        let (norm, max_norm) = norm.map_or((KernelArgument::Null, 1.0), |(norm, max_norm)| {
            assert_eq!(norm.numel(), 1);
            (KernelArgument::Floats(norm), max_norm)
        });
        assert_eq!(step_size.numel(), 1);
        let float = |value: f64| KernelArgument::Float(value as f32);
        let arguments = [
            KernelArgument::Floats(values),
            KernelArgument::Floats(gradients),
            KernelArgument::Floats(exp_avg),
            KernelArgument::Floats(exp_inf),
            norm,
            KernelArgument::Floats(step_size),
            float(max_norm),
            float(weight_decay),
            float(1.0 - beta1),
            float(beta2),
            float(eps),
            KernelArgument::Long(n as i64),
        ];
        let n_blocks = u32::try_from(n.div_ceil(N_THREADS as usize)).map_err(|error| error.to_string())?;
        // SAFETY: these are the kernel's parameters, in order. It accesses the first four tensors up to their length,
        // which is four times n, and reads one value of each scalar. The tensors are aligned to 16 bytes, like all of
        // libtorch's allocations. All are used in libtorch's current stream only.
        unsafe { self.0.launch([n_blocks, 1], N_THREADS, &arguments) }
    }
}
