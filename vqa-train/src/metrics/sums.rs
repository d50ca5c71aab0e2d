//! Sums of metrics over steps.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::distributed::agreement::sum;
use crate::distributed::collective::Collective;
use crate::error::Result;
use crate::metrics::lines::StepMetrics;

/// Sums over some steps.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(crate) n_steps: u64,
    pub(crate) n_questions: usize,
    /// The number of questions that the mean loss is over. States of older versions lack it: then it is all questions.
    #[serde(default)]
    pub(crate) n_in_mean_loss: Option<usize>,
    pub(crate) loss: f64,
    pub(crate) score: f64,
    pub(crate) data: Duration,
    pub(crate) forward: Duration,
    pub(crate) backward: Duration,
    /// Time spent summing gradients with other processes.
    #[serde(default)]
    pub(crate) all_reduce: Duration,
}

impl Sums {
    pub(crate) fn add(&mut self, step: Sums) {
        self.n_steps += step.n_steps;
        self.n_in_mean_loss = Some(self.n_in_mean_loss() + step.n_in_mean_loss());
        self.n_questions += step.n_questions;
        self.loss += step.loss;
        self.score += step.score;
        self.data += step.data;
        self.forward += step.forward;
        self.backward += step.backward;
        self.all_reduce += step.all_reduce;
    }

    pub(crate) fn n_in_mean_loss(&self) -> usize {
        self.n_in_mean_loss.unwrap_or(self.n_questions)
    }

    pub(crate) fn mean_loss(&self) -> f64 {
        self.loss / self.n_in_mean_loss().max(1) as f64
    }

    pub(crate) fn percent(&self) -> f64 {
        100.0 * self.score / self.n_questions.max(1) as f64
    }

    pub(crate) fn duration(&self) -> Duration {
        self.data + self.forward + self.backward + self.all_reduce
    }

    pub(crate) fn metrics(&self, epoch: u64, step: u64, lr: f64) -> StepMetrics {
        let ms = |duration: Duration| 1000.0 * duration.as_secs_f64() / self.n_steps.max(1) as f64;
        StepMetrics {
            epoch,
            step,
            loss: self.mean_loss(),
            lr,
            score: self.percent(),
            samples_per_s: self.n_questions as f64 / self.duration().as_secs_f64().max(1e-9),
            data_ms: ms(self.data),
            forward_ms: ms(self.forward),
            backward_ms: ms(self.backward),
            all_reduce_ms: (self.all_reduce > Duration::ZERO).then(|| ms(self.all_reduce)),
        }
    }
}

/// Replaces the sums of some steps with their sums over all processes, and durations with their means.
pub(crate) fn add_up(collective: &dyn Collective, mut steps: Vec<&mut Sums>) -> Result<()> {
    const N_NUMBERS: usize = 8;
    if collective.world_size() == 1 {
        return Ok(());
    }
    let share = 1.0 / collective.world_size() as f64;
    let numbers = |step: &Sums| -> [f64; N_NUMBERS] {
        let [data, forward, backward, all_reduce] =
            [step.data, step.forward, step.backward, step.all_reduce].map(|duration| duration.as_secs_f64() * share);
        let counts = [step.n_questions, step.n_in_mean_loss()].map(|n| n as f64);
        [counts[0], counts[1], step.loss, step.score, data, forward, backward, all_reduce]
    };
    let mut all: Vec<f64> = steps.iter().flat_map(|step| numbers(step)).collect();
    sum(collective, &mut all)?;
    for (step, &of_step) in steps.iter_mut().zip(all.as_chunks::<N_NUMBERS>().0) {
        let [n_questions, n_in_mean, loss, score, data, forward, backward, all_reduce] = of_step;
        let [data, forward, backward, all_reduce] = [data, forward, backward, all_reduce].map(Duration::from_secs_f64);
        **step = Sums {
            n_steps: step.n_steps,
            n_questions: n_questions as usize,
            n_in_mean_loss: Some(n_in_mean as usize),
            loss,
            score,
            data,
            forward,
            backward,
            all_reduce,
        };
    }
    Ok(())
}
