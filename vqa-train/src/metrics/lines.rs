//! The lines of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// One every `log_every` steps.
    Step(StepMetrics),
    /// One an epoch.
    Epoch(EpochMetrics),
}

impl Line {
    /// The lines of a file. One that was cut short by a crash is left out.
    pub(crate) fn parse_all(metrics_jsonl: &str) -> impl Iterator<Item = Line> {
        metrics_jsonl.lines().filter_map(|line| serde_json::from_str(line).ok())
    }
}

/// Means over the steps of the epoch since its last such line. Scores are percentages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub epoch: u64,
    /// Steps since the start of the run.
    pub step: u64,
    /// Mean loss of a question.
    pub loss: f64,
    /// Learning rate of the last of the steps.
    pub lr: f64,
    /// Mean soft score.
    pub score: f64,
    /// Questions a second.
    pub samples_per_s: f64,
    /// Milliseconds a step: waiting for the batch and copying it to the device.
    pub data_ms: f64,
    /// Milliseconds a step: forward pass and loss.
    pub forward_ms: f64,
    /// Milliseconds a step: backward pass, clipping, optimiser.
    pub backward_ms: f64,
    /// Milliseconds a step: adding up the gradients of several processes, which includes waiting for the slowest;
    /// nothing if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_reduce_ms: Option<f64>,
}

/// Figures of a finished epoch. Scores are percentages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Counted from 1.
    pub epoch: u64,
    /// Steps since the start of the run; nothing in files of older versions.
    pub step: Option<u64>,
    /// Mean loss of a question.
    pub train_loss: f64,
    /// Mean soft score of the training questions, each as the model was when their batch came.
    pub train_score: f64,
    /// Mean soft score of the validation questions; nothing if this epoch was not validated.
    pub val_score: Option<f64>,
    /// Mean loss of a validation question.
    pub val_loss: Option<f64>,
    /// The soft score of a model that is always right.
    pub val_upper_bound: Option<f64>,
    /// Duration of training and validation, in all sittings together.
    pub seconds: f64,
}

impl StepMetrics {
    /// Share of the time that went into waiting for batches and copying them, in percent.
    pub fn data_share(&self) -> f64 {
        self.share(self.data_ms)
    }

    /// Share of the time that went into adding up gradients with other processes, in percent.
    pub fn all_reduce_share(&self) -> f64 {
        self.share(self.all_reduce_ms.unwrap_or_default())
    }

    /// Milliseconds a step.
    pub fn ms(&self) -> f64 {
        self.data_ms + self.forward_ms + self.backward_ms + self.all_reduce_ms.unwrap_or_default()
    }

    fn share(&self, ms: f64) -> f64 {
        100.0 * ms / self.ms().max(1e-9)
    }
}
