//! Where a run stands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Epochs finished.
    pub epoch: u64,
    /// Batches trained on in the epoch in progress.
    pub batch: u64,
    /// Optimiser steps made since the start of the run.
    pub step: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.batch {
            0 => write!(f, "epoch {}", self.epoch),
            batch => write!(f, "batch {batch} of epoch {}", self.epoch + 1),
        }
    }
}

impl Position {
    /// Returns the position one step later.
    pub(crate) fn after_step(self) -> Position {
        Position { batch: self.batch + 1, step: self.step + 1, ..self }
    }
}
