//! One module a command.

pub mod features;
pub mod prepare;
pub mod score;
pub mod synth;

#[cfg(feature = "torch")]
mod checkpoint;
#[cfg(feature = "torch")]
pub mod demo;
#[cfg(feature = "torch")]
pub mod evaluate;
#[cfg(feature = "torch")]
pub mod predict;
#[cfg(feature = "torch")]
pub mod train;
#[cfg(feature = "torch")]
pub mod visualize;
