//! A moving average of the weights.

use tch::Tensor;

/// The moving average of a flat tensor of parameters.
#[derive(Debug)]
pub(super) struct MovingAverage {
    pub(super) values: Tensor,
    decay: f64,
}

impl MovingAverage {
    /// The parameters as they are.
    pub(super) fn new(parameters: &Tensor, decay: f64) -> MovingAverage {
        MovingAverage { values: parameters.copy(), decay }
    }

    /// Moves towards the parameters after their `n_steps`-th step. The first ones keep less, for they would be
    /// remembered for too long.
    pub(super) fn update(&mut self, parameters: &Tensor, n_steps: u64) {
        let n_steps = n_steps as f64;
        let decay = self.decay.min((1.0 + n_steps) / (10.0 + n_steps));
        let _ = tch::no_grad(|| self.values.lerp_(parameters, 1.0 - decay));
    }

    /// Exchanges the average and the parameters.
    pub(super) fn exchange(&mut self, parameters: &mut Tensor) {
        let copy = parameters.copy();
        parameters.copy_(&self.values);
        self.values.copy_(&copy);
    }
}
