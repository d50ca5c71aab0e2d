//! A limit on the memory that images take while they are decoded, over all threads.

use std::sync::{Condvar, Mutex, PoisonError};

/// What all images being decoded may take in total: 2 GiB, which the photos of 16 cores do not reach.
pub(super) static DECODING_MEMORY: DecodingMemory = DecodingMemory::new(2 << 30);

/// A budget of bytes. An image that is larger than the budget gets all of it, so that none waits forever.
pub(super) struct DecodingMemory {
    total: u64,
    taken: Mutex<u64>,
    released: Condvar,
}

/// A share of the budget, returned on drop.
pub(super) struct Share<'a> {
    memory: &'a DecodingMemory,
    bytes: u64,
}

impl DecodingMemory {
    const fn new(total: u64) -> DecodingMemory {
        DecodingMemory { total, taken: Mutex::new(0), released: Condvar::new() }
    }

    /// Waits until this many bytes are free, and takes them. A thread that holds a share must not take a second one.
    pub(super) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(self.total);
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let are_missing = |taken: &mut u64| *taken + bytes > self.total;
        let mut taken = self.released.wait_while(taken, are_missing).unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        Share { memory: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.memory.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.memory.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        let memory = DecodingMemory::new(100);
        let (taken, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for i in 0..64 {
                let (memory, taken, most) = (&memory, &taken, &most);
                scope.spawn(move || {
                    // The larger ones ask for more than the total.
                    let share = memory.take(10 + i * 2);
                    most.fetch_max(taken.fetch_add(share.bytes, Ordering::SeqCst) + share.bytes, Ordering::SeqCst);
                    std::thread::yield_now();
                    taken.fetch_sub(share.bytes, Ordering::SeqCst);
                });
            }
        });
        assert!(most.into_inner() <= 100);
        assert_eq!(*memory.taken.lock().unwrap(), 0);
    }
}
