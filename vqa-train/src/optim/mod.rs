//! What a training step does after the forward pass, equivalent to PyTorch: clipping, Adamax, the learning rate
//! schedule, and a moving average of the weights. [`Optimizer`] combines them.

pub(crate) mod adamax;
pub(crate) mod clip;
pub(crate) mod ema;
pub(crate) mod flat;
pub(crate) mod fused;
pub(crate) mod optimizer;
pub(crate) mod schedule;
pub(crate) mod slice;
pub(crate) mod step_scalar;

pub use self::{adamax::Adamax, optimizer::Optimizer, schedule::lr_factor};
