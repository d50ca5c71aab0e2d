//! Memory for features that is used again: fresh pages from the system cost more than the copy into them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A slice of numbers. One from a [`Loader`](crate::batches::Loader) goes back to it when it is dropped, for a later batch.
#[derive(Default)]
pub struct Buffer {
    numbers: Vec<f32>,
    home: Option<Arc<BufferPool>>,
}

/// Buffers that wait to be used again.
#[derive(Debug)]
pub(crate) struct BufferPool {
    waiting: Mutex<Vec<Vec<f32>>>,
    most: usize,
}

impl BufferPool {
    /// A pool that keeps at most this many buffers.
    pub(crate) fn new(most: usize) -> Arc<BufferPool> {
        Arc::new(BufferPool { waiting: Mutex::new(Vec::new()), most })
    }

    /// A buffer of this length, with any numbers in it.
    pub(crate) fn take(self: &Arc<BufferPool>, len: usize) -> Buffer {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut numbers = waiting.unwrap_or_default();
        numbers.resize(len, 0.0);
        Buffer { numbers, home: Some(self.clone()) }
    }

    fn give_back(&self, numbers: Vec<f32>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < self.most {
            waiting.push(numbers);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(std::mem::take(&mut self.numbers));
        }
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(numbers: Vec<f32>) -> Buffer {
        Buffer { numbers, home: None }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        self.numbers.clone().into()
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Buffer) -> bool {
        self.numbers == other.numbers
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} numbers)", self.numbers.len())
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = BufferPool::new(1);
        let first = pool.take(1000);
        let place = first.as_ptr();
        let second = pool.take(10);
        drop(first);
        drop(second);
        let again = pool.take(500);
        assert_eq!((again.as_ptr(), again.len()), (place, 500));
        drop(again.clone());
        assert_eq!(pool.waiting.lock().unwrap().len(), 0, "a copy has no home");
    }
}
