//! The lines of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// One every `log_every` steps.
    Step(StepMetrics),
    /// One for each epoch.
    Epoch(EpochMetrics),
}

impl Line {
    /// Parses the lines of a file. A line that was cut short by a crash is skipped.
    pub(crate) fn parse_all(metrics_jsonl: &str) -> impl Iterator<Item = Line> {
        metrics_jsonl.lines().filter_map(|line| serde_json::from_str(line).ok())
    }
}

/// Means over the steps since the previous such line of the epoch, or since its start. Scores are percentages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub epoch: u64,
    /// Steps since the start of the run.
    pub step: u64,
    /// Mean loss per question.
    pub loss: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Mean soft score.
    pub score: f64,
    /// Questions per second.
    pub samples_per_s: f64,
    /// Milliseconds per step spent waiting for the batch and copying it to the device.
    pub data_ms: f64,
    /// Milliseconds per step spent in the forward pass and the loss.
    pub forward_ms: f64,
    /// Milliseconds per step spent in the backward pass, clipping and the optimiser.
    pub backward_ms: f64,
    /// Milliseconds per step spent summing the gradients of several processes, including waiting for the slowest;
    /// `None` if there is only one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_reduce_ms: Option<f64>,
}

/// The metrics of a finished epoch. Scores are percentages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Counted from 1.
    pub epoch: u64,
    /// Steps since the start of the run; `None` in files of older versions.
    pub step: Option<u64>,
    /// Mean loss per training question.
    pub train_loss: f64,
    /// Mean soft score of the training questions, each scored when its batch was trained on.
    pub train_score: f64,
    /// Mean soft score of the validation questions; `None` if this epoch was not validated.
    pub val_score: Option<f64>,
    /// Mean loss per validation question.
    pub val_loss: Option<f64>,
    /// The soft score of a model that is always right.
    pub val_upper_bound: Option<f64>,
    /// Duration of training and validation. If the epoch was interrupted and resumed, its parts are added up.
    pub seconds: f64,
}

impl StepMetrics {
    /// Returns the share of the time that was spent waiting for batches and copying them, in percent.
    pub fn data_share(&self) -> f64 {
        self.share(self.data_ms)
    }

    /// Returns the share of the time that was spent summing gradients with other processes, in percent.
    pub fn all_reduce_share(&self) -> f64 {
        self.share(self.all_reduce_ms.unwrap_or_default())
    }

    /// Returns the milliseconds per step.
    pub fn ms(&self) -> f64 {
        self.data_ms + self.forward_ms + self.backward_ms + self.all_reduce_ms.unwrap_or_default()
    }

    fn share(&self, ms: f64) -> f64 {
        100.0 * ms / self.ms().max(1e-9)
    }
}
