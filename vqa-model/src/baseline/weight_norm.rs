//! Weights with weight norm in bfloat16 on a GPU, and their backward pass.
//!
//! libtorch computes such a weight, and from its gradient those of `weight_v` and `weight_g`, in a dozen passes over memory
//! and as many operations on a single number. Here these are two and two.

use tch::{Device, Kind, Tensor};

use crate::baseline::fc::{WeightNormLinear, columns_to_align};
use crate::feed::{CudaKernel, KernelArgument};

/// The kernels of `weight_norm.cu`.
#[derive(Debug)]
pub(super) struct WeightNormKernels {
    square_sums: CudaKernel,
    normed_weight: CudaKernel,
    product_sums: CudaKernel,
    add_gradients: CudaKernel,
}

/// The weight of a layer, of which libtorch knows nothing but itself.
pub(super) struct NormedWeight<'a> {
    pub(super) layer: &'a WeightNormLinear,
    /// [], of weight_v.
    norm: Tensor,
    /// [out_dim, in_dim] bfloat16, with rows of zeros at its end if out_dim is not aligned. It has a gradient of its own.
    pub(super) weight: Tensor,
}

/// Blocks that each compute a part of a sum.
const N_SUMS: u32 = 264;
/// Blocks that each write a part of a weight.
const N_BLOCKS: u32 = 1056;
const N_THREADS: u32 = 256;

impl WeightNormKernels {
    /// The kernels for a device; nothing on a CPU, and where the driver refuses them.
    pub(super) fn load(device: Device) -> Option<WeightNormKernels> {
        let Device::Cuda(index) = device else { return None };
        let kernel = |name| CudaKernel::load(index, include_str!("weight_norm.ptx"), name);
        let load = || {
            Ok(WeightNormKernels {
                square_sums: kernel("square_sums")?,
                normed_weight: kernel("normed_weight")?,
                product_sums: kernel("product_sums")?,
                add_gradients: kernel("add_gradients")?,
            })
        };
        load().inspect_err(|reason: &String| tracing::warn!("weights are computed in a slower way ({reason})")).ok()
    }

    /// Whether they can compute the weight of a layer, and add to its gradients.
    pub(super) fn serve(layer: &WeightNormLinear) -> bool {
        let has_gradient = |parameter: &Tensor| {
            parameter.kind() == Kind::Float
                && parameter.is_contiguous()
                && parameter.requires_grad()
                && parameter.grad().defined()
                && parameter.grad().is_contiguous()
        };
        has_gradient(&layer.weight_v) && has_gradient(&layer.weight_g) && layer.weight_v.numel().is_multiple_of(4)
    }

    #[allow(unsafe_code)]
    /// The weight of a layer that they [serve](WeightNormKernels::serve).
    pub(super) fn forward<'a>(&self, layer: &'a WeightNormLinear) -> NormedWeight<'a> {
        let WeightNormLinear { weight_v, weight_g, .. } = layer;
        let device = weight_v.device();
        let [out_dim, in_dim] = weight_v.size()[..] else { panic!("[out_dim, in_dim]") };
        let shape = [out_dim + columns_to_align(device, out_dim), in_dim];
        let weight = match columns_to_align(device, out_dim) {
            0 => Tensor::empty(shape, (Kind::BFloat16, device)),
            _ => Tensor::zeros(shape, (Kind::BFloat16, device)),
        };
        let sums = Tensor::empty([i64::from(N_SUMS)], (Kind::Float, device));
        let norm = Tensor::empty([], (Kind::Float, device));
        let n = KernelArgument::Long(weight_v.numel() as i64 / 4);
        let n_sums = KernelArgument::Long(i64::from(N_SUMS));
        let [v, g, sums, norm_of_v] = [weight_v, weight_g, &sums, &norm].map(KernelArgument::Floats);
        // SAFETY: these are the kernels' parameters, in order. They touch weight_v and as much of the weight, which is
        // not smaller, one number of a block in sums, and one number of the others. All is used in libtorch's current
        // stream only.
        let launched = unsafe {
            self.square_sums.launch([N_SUMS, N_THREADS], &[v, sums, n]).and_then(|()| {
                let weight = KernelArgument::Bf16s(&weight);
                self.normed_weight.launch([N_BLOCKS, N_THREADS], &[v, g, sums, n_sums, norm_of_v, weight, n])
            })
        };
        launched.unwrap_or_else(|reason| panic!("weight norm: {reason}"));
        NormedWeight { layer, norm, weight: weight.set_requires_grad(true) }
    }

    /// Adds to the gradients of `weight_v` and `weight_g`, once there is that of the weight.
    #[allow(unsafe_code)]
    pub(super) fn add_gradients(&self, NormedWeight { layer, norm, weight }: &NormedWeight) {
        let WeightNormLinear { weight_v, weight_g, .. } = layer;
        let grad = weight.grad();
        if !grad.defined() {
            return;
        }
        let grad = grad.contiguous();
        assert_eq!(grad.size(), weight.size());
        let (grad_v, grad_g) = (weight_v.grad(), weight_g.grad());
        let sums = Tensor::empty([i64::from(N_SUMS)], (Kind::Float, weight_v.device()));
        let n = KernelArgument::Long(weight_v.numel() as i64 / 4);
        let n_sums = KernelArgument::Long(i64::from(N_SUMS));
        let [v, g, norm, sums, grad_v, grad_g] =
            [weight_v, weight_g, norm, &sums, &grad_v, &grad_g].map(KernelArgument::Floats);
        let grad = KernelArgument::Bf16s(&grad);
        // SAFETY: as in `forward`; the gradients have the shapes of what they are gradients of.
        let launched = unsafe {
            self.product_sums.launch([N_SUMS, N_THREADS], &[grad, v, sums, n]).and_then(|()| {
                let arguments = [grad, v, g, norm, sums, n_sums, grad_v, grad_g, n];
                self.add_gradients.launch([N_BLOCKS, N_THREADS], &arguments)
            })
        };
        launched.unwrap_or_else(|reason| panic!("weight norm: {reason}"));
    }
}
