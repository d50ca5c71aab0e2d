//! Handling of libraries that panic on a damaged file.

use std::cell::Cell;
#[cfg(feature = "parquet")]
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Reads a file through a library that trusts some of its content. Returns `None` if the library panics; what it was
/// given must not be used after that.
#[cfg(feature = "parquet")]
pub(crate) fn catch_damage<T>(read: impl FnOnce() -> T) -> Option<T> {
    IS_CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    IS_CAUGHT.set(false);
    result.ok()
}

/// Whether a panic on this thread becomes an [`Error`](crate::Error) about a damaged file, so that a panic hook has
/// nothing to report.
pub fn panic_means_damage() -> bool {
    IS_CAUGHT.get()
}
