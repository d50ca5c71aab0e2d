//! A moving average of the weights.

use tch::Tensor;

use crate::optim::step_scalar::StepScalar;

/// The moving average of a flat tensor of parameters.
#[derive(Debug)]
pub(super) struct MovingAverage {
    pub(super) values: Tensor,
    decay: f64,
    /// How far the next step moves the average towards the parameters, 0 to 1.
    weight: StepScalar,
}

impl MovingAverage {
    /// Starts with the current parameters.
    pub(super) fn new(parameters: &Tensor, decay: f64) -> MovingAverage {
        MovingAverage { values: parameters.copy(), decay, weight: StepScalar::new(parameters.device()) }
    }

    /// Sets how far it moves at the `n_steps`-th step. The decay is smaller for the first steps, so that early weights
    /// are forgotten sooner.
    pub(super) fn begin_step(&mut self, n_steps: u64) {
        let n_steps = n_steps as f64;
        self.weight.set(1.0 - self.decay.min((1.0 + n_steps) / (10.0 + n_steps)));
    }

    /// Moves the average towards the parameters after their step.
    pub(super) fn finish_step(&mut self, parameters: &Tensor) {
        let _ = tch::no_grad(|| match &self.weight.on_gpu {
            None => self.values.lerp_(parameters, self.weight.value),
            Some(weight) => self.values.lerp_tensor_(parameters, weight),
        });
    }

    /// Swaps the average and the parameters.
    pub(super) fn exchange(&mut self, parameters: &mut Tensor) {
        let copy = parameters.copy();
        parameters.copy_(&self.values);
        self.values.copy_(&copy);
    }
}
