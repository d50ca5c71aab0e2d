//! Adamax, equivalent to PyTorch's.

use multiversion::multiversion;
use rayon::prelude::*;
use tch::Tensor;

use crate::config::AdamaxConfig;
use crate::optim::clip;
use crate::optim::flat::FlatParameters;
use crate::optim::fused::{AdamaxTensors, FusedAdamax};
use crate::optim::slice::values_mut;
use crate::optim::step_scalar::StepScalar;

/// Adamax, a variant of Adam with the infinity norm (Kingma and Ba 2015, section 7), which makes the same steps as
/// `torch.optim.Adamax`.
///
/// It moves all parameters into one flat tensor and their gradients into another; the model's own tensors are views of
/// these from then on. Parameters that need no gradient are left alone.
#[derive(Debug)]
pub struct Adamax {
    /// The learning rate of the next step.
    pub lr: f64,
    config: AdamaxConfig,
    n_steps: u64,
    /// The learning rate with bias correction.
    step_size: StepScalar,
    pub(super) flat: FlatParameters,
    /// The weight decay of each parameter.
    weight_decay: Vec<f64>,
    /// The running mean of the gradients, flat.
    exp_avg: Tensor,
    /// The decaying maximum of the gradients, flat.
    exp_inf: Tensor,
    /// A kernel for the entire step, if the GPU can run it.
    fused: Option<FusedAdamax>,
}

impl Adamax {
    /// Creates an optimiser for these named parameters, float32 and all on one device.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: &AdamaxConfig) -> Adamax {
        let flat = FlatParameters::new(parameters);
        let weight_decay = flat.ranges.iter().map(|range| config.weight_decay_of(&range.name)).collect();
        let (exp_avg, exp_inf) = (flat.zeros(), flat.zeros());
        let step_size = StepScalar::new(flat.values.device());
        let fused = FusedAdamax::new(flat.values.device());
        let config = config.clone();
        Adamax { lr: config.lr, config, n_steps: 0, step_size, flat, weight_decay, exp_avg, exp_inf, fused }
    }

    /// Moves every parameter against its gradient, and zeroes the gradients.
    pub fn step(&mut self) {
        self.begin_step();
        self.finish_step(None);
    }

    /// The host's part of a step: counts it, and sets its step size.
    pub(super) fn begin_step(&mut self) {
        self.n_steps += 1;
        self.step_size.set(self.lr / (1.0 - self.config.betas[0].powi(self.n_steps as i32)));
    }

    /// The device's part of a step: the same operations on the same memory each time. The gradients are first clipped
    /// if `max_norm` is given.
    pub(super) fn finish_step(&mut self, max_norm: Option<f64>) {
        if self.finish_step_at_once(max_norm) {
            return;
        }
        let gradients = &mut self.flat.gradients;
        match self.step_size.on_gpu.as_ref().map(Tensor::shallow_clone) {
            None => {
                let scale = max_norm.map_or(1.0, |max_norm| clip::scale_on_cpu(gradients, max_norm));
                self.step_on_cpu(self.step_size.value, scale);
            }
            Some(step_size) => {
                if let Some(max_norm) = max_norm {
                    clip::clip_grad_norm(gradients, max_norm);
                }
                tch::no_grad(|| self.step_by_libtorch(&step_size));
            }
        }
    }

    /// Finishes the step with the fused kernel. Returns false, without doing anything, if that is not possible.
    fn finish_step_at_once(&mut self, max_norm: Option<f64>) -> bool {
        let (Some(fused), Some(step_size)) = (&self.fused, &self.step_size.on_gpu) else { return false };
        let weight_decay = self.weight_decay.first().copied().unwrap_or(0.0);
        if self.weight_decay.iter().any(|&other| other != weight_decay) {
            return false;
        }
        let FlatParameters { values, gradients, .. } = &mut self.flat;
        let norm = max_norm.map(|max_norm| (tch::no_grad(|| gradients.norm()), max_norm));
        let norm = norm.as_ref().map(|(norm, max_norm)| (norm, *max_norm));
        let tensors = AdamaxTensors { values, gradients, exp_avg: &mut self.exp_avg, exp_inf: &mut self.exp_inf };
        fused
            .step(tensors, norm, step_size, weight_decay, &self.config)
            .unwrap_or_else(|reason| panic!("a GPU's part of a step: {reason}"));
        true
    }

    fn step_by_libtorch(&mut self, step_size: &Tensor) {
        let AdamaxConfig { betas: [beta1, beta2], eps, .. } = self.config;
        let FlatParameters { ranges, values, gradients } = &mut self.flat;
        for (range, &weight_decay) in ranges.iter().zip(&self.weight_decay).filter(|&(_, &decay)| decay != 0.0) {
            let _ = range.of(gradients).g_add_(&(range.of(values) * weight_decay));
        }
        let _ = self.exp_avg.lerp_(gradients, 1.0 - beta1);
        // From here on the gradients' memory is used as scratch space.
        let _ = self.exp_inf.g_mul_scalar_(beta2);
        let _ = gradients.abs_().g_add_scalar_(eps);
        let _ = self.exp_inf.maximum_out(&self.exp_inf, gradients);
        let _ = self.exp_avg.div_out(gradients, &self.exp_inf);
        let _ = values.g_sub_(&gradients.g_mul_(step_size));
        let _ = gradients.zero_();
    }

    /// Makes a step with the gradients multiplied by `scale`, so that clipping needs no pass over memory of its own.
    fn step_on_cpu(&mut self, step_size: f64, scale: f32) {
        /// The number of values that a thread processes at once.
        const CHUNK: usize = 1 << 14;
        let AdamaxConfig { betas: [beta1, beta2], eps, .. } = self.config;
        let FlatParameters { ranges, values, gradients } = &mut self.flat;
        let [values, gradients, exp_avg, exp_inf] =
            [values, gradients, &mut self.exp_avg, &mut self.exp_inf].map(values_mut);
        let weight_decay = &self.weight_decay;
        let chunks = values
            .par_chunks_mut(CHUNK)
            .zip(gradients.par_chunks_mut(CHUNK))
            .zip(exp_avg.par_chunks_mut(CHUNK))
            .zip(exp_inf.par_chunks_mut(CHUNK));
        chunks.enumerate().for_each(|(i, (((values, gradients), exp_avg), exp_inf))| {
            let start = (i * CHUNK) as i64;
            let end = start + values.len() as i64;
            let first = ranges.partition_point(|range| range.start + range.len() <= start);
            let of_chunk = ranges[first..].iter().zip(&weight_decay[first..]);
            for (range, &weight_decay) in of_chunk.take_while(|(range, _)| range.start < end) {
                let share =
                    (range.start.max(start) - start) as usize..((range.start + range.len()).min(end) - start) as usize;
                let [weight_decay, towards, beta2, eps, step_size] =
                    [weight_decay, 1.0 - beta1, beta2, eps, step_size].map(|factor| factor as f32);
                step(
                    &mut values[share.clone()],
                    &mut gradients[share.clone()],
                    &mut exp_avg[share.clone()],
                    &mut exp_inf[share],
                    [scale, weight_decay, towards, beta2, eps, step_size],
                );
            }
        });
    }

    /// Returns the number of steps made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Sets the number of steps made.
    pub(super) fn set_n_steps(&mut self, n_steps: u64) {
        self.n_steps = n_steps;
    }

    /// Returns the optimiser's own flat tensors, with PyTorch's names.
    pub(super) fn state(&self) -> [(&'static str, &Tensor); 2] {
        [("exp_avg", &self.exp_avg), ("exp_inf", &self.exp_inf)]
    }
}

/// Makes a step of some parameters. The factors are: clipping, weight decay, 1 - decay of the mean, decay of the
/// maximum, eps, step size.
#[multiversion(targets = "simd")]
fn step(
    parameters: &mut [f32],
    gradients: &mut [f32],
    exp_avg: &mut [f32],
    exp_inf: &mut [f32],
    [scale, weight_decay, towards, beta2, eps, step_size]: [f32; 6],
) {
    for (((parameter, gradient), exp_avg), exp_inf) in parameters.iter_mut().zip(gradients).zip(exp_avg).zip(exp_inf) {
        let g = *gradient * scale + weight_decay * *parameter;
        *gradient = 0.0;
        *exp_avg += towards * (g - *exp_avg);
        let (before, now) = (*exp_inf * beta2, g.abs() + eps);
        // NaN stays NaN.
        *exp_inf = if before > now { before } else { now };
        *parameter -= step_size * (*exp_avg / *exp_inf);
    }
}
