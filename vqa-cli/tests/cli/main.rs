//! Tests of the full program, through its binary.

#[cfg(feature = "torch")]
mod ask;
#[cfg(feature = "torch")]
mod asked;
#[cfg(feature = "torch")]
mod backbone;
mod bad_input;
mod common;
mod convert;
mod forms;
mod hints;
mod import;
#[cfg(unix)]
mod inputs;
#[cfg(all(feature = "torch", target_os = "linux"))]
mod interrupt;
mod pictures;
#[cfg(target_os = "linux")]
mod process;
#[cfg(all(feature = "torch", target_os = "linux"))]
mod pty;
#[cfg(feature = "torch")]
mod report;
#[cfg(all(feature = "torch", target_os = "linux"))]
mod screen;
#[cfg(feature = "torch")]
mod seen;
#[cfg(all(feature = "serve", unix))]
mod serve;
#[cfg(all(feature = "torch", unix))]
mod surroundings;
#[cfg(all(feature = "distributed", target_os = "linux"))]
mod together;
#[cfg(feature = "torch")]
mod whole_job;
