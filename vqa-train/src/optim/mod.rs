//! What a training step does after the forward pass, as PyTorch does it: clipping, Adamax, the learning rate's
//! schedule, and a moving average of the weights. [`Optimizer`] is all of them.

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
