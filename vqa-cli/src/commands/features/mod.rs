//! Feature files.

pub mod convert;
pub mod extract;
pub mod inspect;
mod problems;

#[cfg(feature = "torch")]
mod backbone;
