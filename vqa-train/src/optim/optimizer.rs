//! All of a training step after the forward pass.

use std::collections::HashMap;

use tch::Tensor;

use crate::config::TrainConfig;
use crate::distributed::collective::Collective;
use crate::distributed::gradient_sums::GradientSums;
use crate::optim::adamax::Adamax;
use crate::optim::ema::MovingAverage;
use crate::optim::schedule::lr_factor;

/// A training step after the forward pass: backward, clip, and Adamax at the scheduled rate.
#[derive(Debug)]
pub struct Optimizer {
    adamax: Adamax,
    config: TrainConfig,
    average: Option<MovingAverage>,
}

impl Optimizer {
    /// An optimiser of these named parameters, as the config says. Those that need no gradient it leaves alone.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, config: &TrainConfig) -> Optimizer {
        let adamax = Adamax::new(parameters, &config.optim);
        let average = (config.ema_decay > 0.0).then(|| MovingAverage::new(&adamax.flat.values, config.ema_decay));
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

    /// The sums of several processes' gradients in a step, part by part: those whose parameters' names begin so are
    /// complete first, in this order.
    pub(crate) fn gradient_sums<'a>(&self, collective: &'a dyn Collective, order: &[&[&str]]) -> GradientSums<'a> {
        let flat = &self.adamax.flat;
        let kind = self.config.all_reduce.kind();
        GradientSums::new(collective, flat.gradients.shallow_clone(), flat.parts(order), kind)
    }

    /// Moves the parameters against the gradients that backward passes have added up, and makes them zero.
    pub fn apply(&mut self) {
        self.begin_step();
        self.finish_step();
    }

    /// The part of [`Optimizer::apply`] that is the host's: counts the step, and sets what differs from other steps.
    pub(crate) fn begin_step(&mut self) {
        self.adamax.lr = self.lr();
        self.adamax.begin_step();
        if let Some(average) = &mut self.average {
            average.begin_step(self.adamax.n_steps());
        }
    }

    /// The part of [`Optimizer::apply`] that is the device's: the same operations on the same memory at every step, so
    /// that a GPU can be told once.
    pub(crate) fn finish_step(&mut self) {
        self.adamax.finish_step(self.config.clip_grad.then_some(self.config.max_grad_norm));
        if let Some(average) = &mut self.average {
            average.finish_step(&self.adamax.flat.values);
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
            average.exchange(&mut self.adamax.flat.values);
        }
    }

    /// Number of steps made.
    pub fn n_steps(&self) -> u64 {
        self.adamax.n_steps()
    }

    /// The optimiser's own tensors by name, for a file.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut flats = self.adamax.state().to_vec();
        flats.extend(self.average.as_ref().map(|average| ("average", &average.values)));
        self.adamax.flat.named(&flats)
    }

    /// Goes back to a state from [`Optimizer::state`] after `n_steps` steps.
    ///
    /// # Errors
    ///
    /// Names a tensor that is missing, of another shape, or of no use.
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
        assert_eq!(problem, Err("average.weight belongs to another optimiser".to_owned()));
        optimizer.restore(4, state).unwrap();
        assert_eq!(optimizer.n_steps(), 4);
    }
}
