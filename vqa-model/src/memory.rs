//! Memory that is full.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Whether this message of a panic is libtorch saying that the computer's or the GPU's memory is full.
pub fn is_out_of_memory(message: &str) -> bool {
    ["can't allocate memory", "out of memory", "std::bad_alloc"].iter().any(|words| message.contains(words))
}

/// Runs `f`; nothing if memory became full in it. libtorch reports that as an exception, which tch makes a panic. Other
/// panics go on.
pub fn unless_out_of_memory<T>(f: impl FnOnce() -> T) -> Option<T> {
    // What `f` leaves half-changed is not used any more, for the run ends.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            if message.is_some_and(is_out_of_memory) { None } else { resume_unwind(panic) }
        }
    }
}
