//! The metrics of a run, as JSON lines, TensorBoard events and a plot.

pub(crate) mod curves;
pub(crate) mod file;
pub(crate) mod lines;
pub(crate) mod sums;
pub(crate) mod tensorboard;

pub use self::{
    file::draw_curves,
    lines::{EpochMetrics, Line, StepMetrics},
};
