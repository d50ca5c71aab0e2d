//! Adamax, clipping and the learning rate, as in PyTorch.

use tch::Tensor;

use crate::config::{AdamaxConfig, TrainConfig};

/// Adamax, a variant of Adam with the infinity norm (Kingma and Ba 2015, section 7), step by step as
/// `torch.optim.Adamax`.
#[derive(Debug)]
pub struct Adamax {
    /// The learning rate of the next step.
    pub lr: f64,
    config: AdamaxConfig,
    n_steps: u64,
    slots: Vec<Slot>,
}

/// A parameter and its running figures.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    exp_avg: Tensor,
    exp_inf: Tensor,
}

impl Adamax {
    /// An optimiser of these named parameters.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: AdamaxConfig) -> Adamax {
        let mut slots: Vec<Slot> = parameters
            .into_iter()
            .map(|(name, parameter)| {
                let (exp_avg, exp_inf) = (parameter.zeros_like().detach(), parameter.zeros_like().detach());
                Slot { name, parameter, exp_avg, exp_inf }
            })
            .collect();
        // Sums over parameters must not depend on the order of a hash map.
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        Adamax { lr: config.lr, config, n_steps: 0, slots }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.parameter.zero_grad());
    }

    /// Scales the gradients down so that the norm of all together is at most `max_norm`. Returns what it was. As
    /// `torch.nn.utils.clip_grad_norm_`.
    pub fn clip_grad_norm(&mut self, max_norm: f64) -> Tensor {
        tch::no_grad(|| {
            let mut gradients: Vec<Tensor> =
                self.slots.iter().map(|slot| slot.parameter.grad()).filter(Tensor::defined).collect();
            let norms: Vec<Tensor> = gradients.iter().map(Tensor::norm).collect();
            let total = Tensor::stack(&norms, 0).norm();
            let scale = (max_norm / (&total + 1e-6)).clamp_max(1.0);
            for gradient in &mut gradients {
                let _ = gradient.g_mul_(&scale);
            }
            total
        })
    }

    /// Moves every parameter that has a gradient.
    pub fn step(&mut self) {
        self.n_steps += 1;
        let AdamaxConfig { betas: [beta1, beta2], eps, weight_decay, .. } = self.config;
        let step_size = self.lr / (1.0 - beta1.powi(self.n_steps as i32));
        tch::no_grad(|| {
            for Slot { parameter, exp_avg, exp_inf, .. } in &mut self.slots {
                let mut gradient = parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                if weight_decay != 0.0 {
                    // Not in place: the tensor is the parameter's own gradient.
                    gradient = gradient.g_add(&(&*parameter * weight_decay));
                }
                let _ = exp_avg.lerp_(&gradient, 1.0 - beta1);
                *exp_inf = (&*exp_inf * beta2).maximum(&(gradient.abs() + eps));
                let _ = parameter.g_sub_(&(&*exp_avg / &*exp_inf * step_size));
            }
        });
    }

    /// Number of steps made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The running figures by name, for a file.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots
            .iter()
            .flat_map(|slot| {
                [("exp_avg", &slot.exp_avg), ("exp_inf", &slot.exp_inf)]
                    .map(|(kind, tensor)| (format!("{kind}.{}", slot.name), tensor.shallow_clone()))
            })
            .collect()
    }

    /// Goes back to a state from [`Adamax::state`] after `n_steps` steps.
    ///
    /// # Errors
    ///
    /// Names a figure that is missing or of another shape.
    pub fn restore(&mut self, n_steps: u64, state: Vec<(String, Tensor)>) -> Result<(), String> {
        let state: std::collections::HashMap<String, Tensor> = state.into_iter().collect();
        for slot in &mut self.slots {
            for (kind, tensor) in [("exp_avg", &mut slot.exp_avg), ("exp_inf", &mut slot.exp_inf)] {
                let name = format!("{kind}.{}", slot.name);
                match state.get(&name) {
                    Some(stored) if stored.size() == tensor.size() => tensor.copy_(stored),
                    _ => return Err(format!("{name} is missing or of another shape")),
                }
            }
        }
        self.n_steps = n_steps;
        Ok(())
    }
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
}

impl Optimizer {
    /// An optimiser of these named parameters, as the config says.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: &TrainConfig) -> Optimizer {
        Optimizer { adamax: Adamax::new(parameters, config.optim), config: config.clone() }
    }

    /// The learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.config.optim.lr * lr_factor(&self.config, self.adamax.n_steps())
    }

    /// Moves the parameters against the gradient of `loss`.
    pub fn step(&mut self, loss: &Tensor) {
        self.adamax.lr = self.lr();
        self.adamax.zero_grad();
        loss.backward();
        if self.config.clip_grad {
            let _ = self.adamax.clip_grad_norm(self.config.max_grad_norm);
        }
        self.adamax.step();
    }

    /// The Adamax inside, with its state.
    pub fn adamax(&mut self) -> &mut Adamax {
        &mut self.adamax
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
