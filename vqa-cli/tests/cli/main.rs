//! The whole program, through its binary.

mod bad_input;
mod common;
mod convert;
#[cfg(all(feature = "torch", unix))]
mod interrupt;
#[cfg(feature = "torch")]
mod seen;
#[cfg(all(feature = "torch", unix))]
mod surroundings;
#[cfg(feature = "torch")]
mod whole_job;
