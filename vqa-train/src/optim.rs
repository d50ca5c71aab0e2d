//! Adamax, clipping and the learning rate, as in PyTorch.

use std::collections::HashMap;

use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::config::{AdamaxConfig, TrainConfig};

/// Adamax, a variant of Adam with the infinity norm (Kingma and Ba 2015, section 7), step by step as
/// `torch.optim.Adamax`.
///
/// It moves all parameters into one flat tensor, and their gradients into another, of which the model's own are views from
/// then on: clipping and stepping are each one pass over memory.
#[derive(Debug)]
pub struct Adamax {
    /// The learning rate of the next step.
    pub lr: f64,
    config: AdamaxConfig,
    n_steps: u64,
    slots: Vec<Slot>,
    parameters: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_inf: Tensor,
}

/// A parameter's place in the flat tensors.
#[derive(Debug)]
struct Slot {
    name: String,
    start: i64,
    shape: Vec<i64>,
    weight_decay: f64,
}

impl Slot {
    fn len(&self) -> i64 {
        self.shape.iter().product()
    }

    /// The parameter's share of a flat tensor.
    fn of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.start, self.len()).view(&self.shape[..])
    }
}

impl Adamax {
    /// An optimiser of these named parameters, float32 and all on one device.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: &AdamaxConfig) -> Adamax {
        /// Parameters begin at multiples of a cache line.
        const ALIGNED: usize = 16;
        let mut parameters: Vec<(String, Tensor)> = parameters.into_iter().collect();
        // Sums over parameters must not depend on the order of a hash map.
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        let mut slots = Vec::with_capacity(parameters.len());
        let mut n = 0;
        for (name, parameter) in &parameters {
            let weight_decay = config.weight_decay_of(name);
            slots.push(Slot { name: name.clone(), start: n as i64, shape: parameter.size(), weight_decay });
            n += parameter.numel().next_multiple_of(ALIGNED);
        }
        let device = parameters.first().map_or(Device::Cpu, |(_, parameter)| parameter.device());
        let zeros = || Tensor::zeros([n as i64], (Kind::Float, device));
        let (flat, gradients) = (zeros(), zeros());
        for ((_, parameter), slot) in parameters.iter_mut().zip(&slots) {
            tch::no_grad(|| slot.of(&flat).copy_(parameter));
            parameter.set_data(&slot.of(&flat));
            // Only a backward pass makes a gradient; from then on they are added to where it is.
            (&*parameter * 0.0).sum(Kind::Float).backward();
            parameter.grad().set_data(&slot.of(&gradients));
        }
        Adamax {
            lr: config.lr,
            config: config.clone(),
            n_steps: 0,
            slots,
            parameters: flat,
            gradients,
            exp_avg: zeros(),
            exp_inf: zeros(),
        }
    }

    /// Scales the gradients down so that the norm of all together is at most `max_norm`. Returns what it was. As
    /// `torch.nn.utils.clip_grad_norm_`.
    pub fn clip_grad_norm(&mut self, max_norm: f64) -> Tensor {
        tch::no_grad(|| {
            let total = self.gradients.norm();
            let scale = (max_norm / (&total + 1e-6)).clamp_max(1.0);
            // On a CPU it costs nothing to look, and most steps of a long run need no clipping.
            if self.gradients.device() != Device::Cpu || scale.double_value(&[]) < 1.0 {
                let _ = self.gradients.g_mul_(&scale);
            }
            total
        })
    }

    /// Moves every parameter against its gradient, and makes the gradients zero.
    pub fn step(&mut self) {
        self.n_steps += 1;
        let step_size = self.lr / (1.0 - self.config.betas[0].powi(self.n_steps as i32));
        if self.parameters.device() == Device::Cpu {
            self.step_on_cpu(step_size);
        } else {
            tch::no_grad(|| self.step_by_libtorch(step_size));
        }
    }

    fn step_by_libtorch(&mut self, step_size: f64) {
        let AdamaxConfig { betas: [beta1, beta2], eps, .. } = self.config;
        for slot in self.slots.iter().filter(|slot| slot.weight_decay != 0.0) {
            let _ = slot.of(&self.gradients).g_add_(&(slot.of(&self.parameters) * slot.weight_decay));
        }
        let _ = self.exp_avg.lerp_(&self.gradients, 1.0 - beta1);
        self.exp_inf = (&self.exp_inf * beta2).maximum(&(self.gradients.abs() + eps));
        let _ = self.parameters.g_sub_(&(&self.exp_avg / &self.exp_inf * step_size));
        let _ = self.gradients.zero_();
    }

    fn step_on_cpu(&mut self, step_size: f64) {
        /// Numbers that a thread works on at once.
        const CHUNK: usize = 1 << 14;
        let AdamaxConfig { betas: [beta1, beta2], eps, .. } = self.config;
        let [parameters, gradients, exp_avg, exp_inf] =
            [&mut self.parameters, &mut self.gradients, &mut self.exp_avg, &mut self.exp_inf].map(numbers_mut);
        let slots = &self.slots;
        let chunks = parameters
            .par_chunks_mut(CHUNK)
            .zip(gradients.par_chunks_mut(CHUNK))
            .zip(exp_avg.par_chunks_mut(CHUNK))
            .zip(exp_inf.par_chunks_mut(CHUNK));
        chunks.enumerate().for_each(|(i, (((parameters, gradients), exp_avg), exp_inf))| {
            let start = (i * CHUNK) as i64;
            let end = start + parameters.len() as i64;
            let first = slots.partition_point(|slot| slot.start + slot.len() <= start);
            for slot in slots[first..].iter().take_while(|slot| slot.start < end) {
                let share =
                    (slot.start.max(start) - start) as usize..((slot.start + slot.len()).min(end) - start) as usize;
                let factors = [slot.weight_decay, 1.0 - beta1, beta2, eps, step_size].map(|factor| factor as f32);
                adamax(
                    &mut parameters[share.clone()],
                    &mut gradients[share.clone()],
                    &mut exp_avg[share.clone()],
                    &mut exp_inf[share],
                    factors,
                );
            }
        });
    }

    /// Number of steps made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The parameters' shares of flat tensors, by name with a prefix.
    fn named(&self, flats: &[(&str, &Tensor)]) -> Vec<(String, Tensor)> {
        let name = |kind: &str, slot: &Slot| format!("{kind}.{}", slot.name);
        let of_slot =
            |slot: &Slot| flats.iter().map(|(kind, flat)| (name(kind, slot), slot.of(flat))).collect::<Vec<_>>();
        self.slots.iter().flat_map(of_slot).collect()
    }
}

/// A step of some numbers: weight decay, decay of the mean, decay of the maximum, eps, step size.
#[multiversion(targets = "simd")]
fn adamax(
    parameters: &mut [f32],
    gradients: &mut [f32],
    exp_avg: &mut [f32],
    exp_inf: &mut [f32],
    [weight_decay, towards, beta2, eps, step_size]: [f32; 5],
) {
    for (((parameter, gradient), exp_avg), exp_inf) in parameters.iter_mut().zip(gradients).zip(exp_avg).zip(exp_inf) {
        let g = *gradient + weight_decay * *parameter;
        *gradient = 0.0;
        *exp_avg += towards * (g - *exp_avg);
        let (before, now) = (*exp_inf * beta2, g.abs() + eps);
        // NaN stays NaN.
        *exp_inf = if before > now { before } else { now };
        *parameter -= step_size * (*exp_avg / *exp_inf);
    }
}

/// The numbers of a flat float32 tensor on the CPU.
#[allow(unsafe_code)]
pub(crate) fn numbers_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous());
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: the tensor has `numel` float32 one after the other, and keeps them while it is borrowed. The model's views of
    // them are used between steps, not during one.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The factor on the learning rate at a step, counted from 0, as the seed defines it for `LambdaLR`: up to
/// `warmup_steps` a straight line from `warmup_factor` to 1; then `lr_ratio` to the number of `lr_steps` that are at or
/// before the step (`bisect_right`). No warm-up if `warmup_steps` is 0, where the seed divides by zero.
pub fn lr_factor(config: &TrainConfig, step: u64) -> f64 {
    if config.warmup_steps > 0 && step <= config.warmup_steps {
        let alpha = step as f64 / config.warmup_steps as f64;
        config.warmup_factor * (1.0 - alpha) + alpha
    } else {
        let n_passed = config.lr_steps.partition_point(|&lr_step| lr_step <= step);
        config.lr_ratio.powi(n_passed as i32)
    }
}

/// A training step after the forward pass: backward, clip, and Adamax at the scheduled rate.
#[derive(Debug)]
pub struct Optimizer {
    adamax: Adamax,
    config: TrainConfig,
    /// The moving average of the parameters, flat as they are.
    average: Option<Tensor>,
}

impl Optimizer {
    /// An optimiser of these named parameters, as the config says.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: &TrainConfig) -> Optimizer {
        let adamax = Adamax::new(parameters, &config.optim);
        let average = (config.ema_decay > 0.0).then(|| adamax.parameters.copy());
        Optimizer { adamax, config: config.clone(), average }
    }

    /// The learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.config.optim.lr * lr_factor(&self.config, self.adamax.n_steps())
    }

    /// Moves the parameters against the gradient of `loss`, and of those that were added before.
    pub fn step(&mut self, loss: &Tensor) {
        loss.backward();
        self.apply();
    }

    /// Moves the parameters against the gradients that backward passes have added up, and makes them zero.
    pub fn apply(&mut self) {
        self.adamax.lr = self.lr();
        if self.config.clip_grad {
            let _ = self.adamax.clip_grad_norm(self.config.max_grad_norm);
        }
        self.adamax.step();
        if let Some(average) = &mut self.average {
            let n_steps = self.adamax.n_steps as f64;
            let decay = self.config.ema_decay.min((1.0 + n_steps) / (10.0 + n_steps));
            let _ = tch::no_grad(|| average.lerp_(&self.adamax.parameters, 1.0 - decay));
        }
    }

    /// Does something with a model whose parameters are their moving average, if there is one.
    pub fn with_average<T>(&mut self, f: impl FnOnce() -> T) -> T {
        self.exchange();
        let value = f();
        self.exchange();
        value
    }

    fn exchange(&mut self) {
        if let Some(average) = &mut self.average {
            let parameters = self.adamax.parameters.copy();
            self.adamax.parameters.copy_(average);
            average.copy_(&parameters);
        }
    }

    /// Number of steps made.
    pub fn n_steps(&self) -> u64 {
        self.adamax.n_steps()
    }

    /// The running figures by name, for a file.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut figures = vec![("exp_avg", &self.adamax.exp_avg), ("exp_inf", &self.adamax.exp_inf)];
        figures.extend(self.average.as_ref().map(|average| ("average", average)));
        self.adamax.named(&figures)
    }

    /// Goes back to a state from [`Optimizer::state`] after `n_steps` steps.
    ///
    /// # Errors
    ///
    /// Names a figure that is missing, of another shape, or of no use.
    pub fn restore(&mut self, n_steps: u64, state: Vec<(String, Tensor)>) -> Result<(), String> {
        let mut state: HashMap<String, Tensor> = state.into_iter().collect();
        for (name, mut figure) in self.state() {
            match state.remove(&name) {
                Some(stored) if stored.size() == figure.size() => figure.copy_(&stored),
                _ => return Err(format!("{name} is missing or of another shape")),
            }
        }
        if let Some(name) = state.keys().min() {
            return Err(format!("{name} is of another optimiser"));
        }
        self.adamax.n_steps = n_steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moving average by hand, in the model for as long as is asked, and kept over a restart.
    #[test]
    fn the_average_follows_the_weights() {
        let config = TrainConfig { ema_decay: 0.6, ..TrainConfig::default() };
        let weight = Tensor::from_slice(&[1f32, -2.0]).set_requires_grad(true);
        let named = || [("weight".to_owned(), weight.shallow_clone())];
        let value = || Vec::<f32>::try_from(weight.detach()).unwrap();
        let mut optimizer = Optimizer::new(named(), &config);
        let mut expected = value();
        let mut state = Vec::new();
        for step in 1..=5 {
            optimizer.step(&(&weight * &weight).sum(Kind::Float));
            let decay = 0.6f32.min((1.0 + step as f32) / (10.0 + step as f32));
            for (average, now) in expected.iter_mut().zip(value()) {
                *average = decay * *average + (1.0 - decay) * now;
            }
            if step == 4 {
                state = optimizer.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
            }
        }
        let before = value();
        let average = optimizer.with_average(value);
        assert!(average.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{average:?}, {expected:?}");
        assert_eq!(value(), before);
        assert_ne!(average, before);

        let without_average = TrainConfig::default();
        let problem = Optimizer::new(named(), &without_average)
            .restore(4, state.iter().map(|(n, t)| (n.clone(), t.copy())).collect());
        assert_eq!(problem, Err("average.weight is of another optimiser".to_owned()));
        optimizer.restore(4, state).unwrap();
        assert_eq!(optimizer.n_steps(), 4);
    }

    #[test]
    fn the_longest_name_that_fits_decides_of_weight_decay() {
        let weight_decay_of = [("a", 0.1), ("a.b", 0.2), ("a.bc", 0.3)].map(|(name, decay)| (name.to_owned(), decay));
        let config = AdamaxConfig { weight_decay: 0.5, weight_decay_of: weight_decay_of.into(), ..Default::default() };
        for (name, decay) in [("a.x", 0.1), ("a.b", 0.2), ("a.b.c", 0.2), ("a.bc.d", 0.3), ("ab", 0.5), ("b.a", 0.5)] {
            assert_eq!(config.weight_decay_of(name), decay, "{name}");
        }
    }

    /// Expected values from the seed's `lr_schedule_func_builder` run in Python.
    #[test]
    fn schedule_is_the_seeds() {
        let config = TrainConfig {
            warmup_steps: 4,
            warmup_factor: 0.2,
            lr_steps: vec![6, 8, 8],
            lr_ratio: 0.5,
            ..TrainConfig::default()
        };
        let expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.5, 0.5, 0.125, 0.125];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((lr_factor(&config, step as u64) - expected).abs() < 1e-12, "step {step}");
        }
        assert_eq!(lr_factor(&TrainConfig::default(), 0), 1.0);
    }
}
