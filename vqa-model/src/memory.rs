//! Running out of memory, as an error.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::{Error, Result};

/// Whether a panic's message is libtorch reporting that the computer's or the GPU's memory is full.
pub fn is_out_of_memory(message: &str) -> bool {
    ["can't allocate memory", "out of memory", "std::bad_alloc"].iter().any(|words| message.contains(words))
}

/// Runs `f` and returns its result.
///
/// # Errors
///
/// [`Error::OutOfMemory`] if `f` ran out of memory. libtorch reports that as an exception, which tch turns into a
/// panic; other panics are passed on. Anything that `f` left half-changed must not be used afterwards.
pub fn or_out_of_memory<T>(f: impl FnOnce() -> T) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Ok(value),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            if message.is_some_and(is_out_of_memory) { Err(Error::OutOfMemory) } else { resume_unwind(panic) }
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_full_memory_is_an_error_and_a_bug_stays_a_panic() {
        // More than a process can address.
        let too_large = || Tensor::zeros([1 << 46], (Kind::Float, Device::Cpu));
        assert!(matches!(or_out_of_memory(too_large), Err(Error::OutOfMemory)));
        assert_eq!(or_out_of_memory(|| 7).unwrap(), 7);
        let bug = catch_unwind(|| or_out_of_memory(|| panic!("index out of bounds")));
        assert!(bug.is_err());
    }
}
