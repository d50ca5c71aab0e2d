//! Everything that a training step does after the forward pass.

use std::collections::HashMap;

use tch::Tensor;

use crate::config::TrainConfig;
use crate::distributed::collective::Collective;
use crate::distributed::gradient_sums::GradientSums;
use crate::optim::adamax::Adamax;
use crate::optim::ema::MovingAverage;
use crate::optim::schedule::lr_factor;

/// The rest of a training step after the forward pass: backward pass, clipping, Adamax at the scheduled learning rate,
/// and the moving average of the weights.
#[derive(Debug)]
pub struct Optimizer {
    adamax: Adamax,
    config: TrainConfig,
    average: Option<MovingAverage>,
}

impl Optimizer {
    /// Creates an optimiser for these named parameters, configured by `config`. Those that need no gradient are left
    /// alone.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: &TrainConfig) -> Optimizer {
        let adamax = Adamax::new(parameters, &config.optim);
        let average = (config.ema_decay > 0.0).then(|| MovingAverage::new(&adamax.flat.values, config.ema_decay));
        Optimizer { adamax, config: config.clone(), average }
    }

    /// Returns the learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.config.optim.lr * lr_factor(&self.config, self.adamax.n_steps())
    }

    /// Adds the gradient of `loss` to the gradients accumulated so far, and moves the parameters against the sum.
    pub fn step(&mut self, loss: &Tensor) {
        loss.backward();
        self.apply();
    }

    /// Returns the sums over several processes of a step's gradients. `order` has the groups of parameters whose
    /// gradients are complete first, as in [`VqaModel::gradient_order`](vqa_model::VqaModel::gradient_order).
    pub(crate) fn gradient_sums<'a>(&self, collective: &'a dyn Collective, order: &[&[&str]]) -> GradientSums<'a> {
        let flat = &self.adamax.flat;
        let kind = self.config.all_reduce.kind();
        GradientSums::new(collective, flat.gradients.shallow_clone(), flat.parts(order), kind)
    }

    /// Moves the parameters against the gradients that backward passes have accumulated, and zeroes these.
    pub fn apply(&mut self) {
        self.begin_step();
        self.finish_step();
    }

    /// The host's part of [`Optimizer::apply`]: counts the step, and sets the values that differ between steps.
    pub(crate) fn begin_step(&mut self) {
        self.adamax.lr = self.lr();
        self.adamax.begin_step();
        if let Some(average) = &mut self.average {
            average.begin_step(self.adamax.n_steps());
        }
    }

    /// The device's part of [`Optimizer::apply`]: the same operations on the same memory at every step, so that a GPU
    /// can record them once.
    pub(crate) fn finish_step(&mut self) {
        self.adamax.finish_step(self.config.clip_grad.then_some(self.config.max_grad_norm));
        if let Some(average) = &mut self.average {
            average.finish_step(&self.adamax.flat.values);
        }
    }

    /// Runs `f` with the model's parameters replaced by their moving average, if there is one.
    pub fn with_average<T>(&mut self, f: impl FnOnce() -> T) -> T {
        self.exchange();
        let value = f();
        self.exchange();
        value
    }

    fn exchange(&mut self) {
        if let Some(average) = &mut self.average {
            average.exchange(&mut self.adamax.flat.values);
        }
    }

    /// Returns the number of steps made.
    pub fn n_steps(&self) -> u64 {
        self.adamax.n_steps()
    }

    /// Returns the optimiser's own tensors by name, to be saved.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut flats = self.adamax.state().to_vec();
        flats.extend(self.average.as_ref().map(|average| ("average", &average.values)));
        self.adamax.flat.named(&flats)
    }

    /// Restores a state that [`Optimizer::state`] returned after `n_steps` steps.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, has another shape, or does not belong to this optimiser; the message names it.
    pub fn restore(&mut self, n_steps: u64, state: Vec<(String, Tensor)>) -> std::result::Result<(), String> {
        let mut state: HashMap<String, Tensor> = state.into_iter().collect();
        for (name, mut tensor) in self.state() {
            match state.remove(&name) {
                Some(stored) if stored.size() == tensor.size() => tensor.copy_(&stored),
                _ => return Err(format!("{name} is missing or has another shape")),
            }
        }
        if let Some(name) = state.keys().min() {
            return Err(format!("{name} belongs to another optimiser"));
        }
        self.adamax.set_n_steps(n_steps);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    /// The average equals one computed by hand, is in the model only during `with_average`, and survives a restart.
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
        assert_eq!(problem, Err("average.weight belongs to another optimiser".to_owned()));
        optimizer.restore(4, state).unwrap();
        assert_eq!(optimizer.n_steps(), 4);
    }
}
