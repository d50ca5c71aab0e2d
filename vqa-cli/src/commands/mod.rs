//! The commands, one module each.

pub mod features;
pub mod import;
pub mod prepare;
pub mod score;
mod split;
pub mod synth;

#[cfg(feature = "torch")]
mod answering;
#[cfg(feature = "torch")]
pub mod ask;
#[cfg(feature = "torch")]
pub mod demo;
#[cfg(feature = "torch")]
mod dictionaries;
#[cfg(feature = "torch")]
mod dry_run;
#[cfg(feature = "torch")]
pub mod evaluate;
#[cfg(feature = "torch")]
pub mod predict;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "torch")]
pub mod train;
#[cfg(feature = "torch")]
pub mod visualize;
#[cfg(feature = "torch")]
mod watch;
