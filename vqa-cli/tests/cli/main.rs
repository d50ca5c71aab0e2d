//! Tests of the full program, through its binary.

#[cfg(feature = "torch")]
mod answering;
#[cfg(feature = "torch")]
mod ask;
#[cfg(feature = "torch")]
mod backbone;
mod bad_input;
mod common;
mod convert;
#[cfg(feature = "torch")]
mod end_to_end;
#[cfg(all(feature = "torch", unix))]
mod environment;
mod foreign_formats;
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
#[cfg(feature = "torch")]
mod run_output;
#[cfg(all(feature = "torch", target_os = "linux"))]
mod screen;
#[cfg(all(feature = "serve", unix))]
mod serve;
#[cfg(all(feature = "distributed", target_os = "linux"))]
mod together;
