//! Reusable memory for features: fresh pages from the system cost more than the copy into them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A slice of values. Dropping one that came from a [`Loader`](crate::batches::Loader) returns its memory to the
/// loader, for a later batch.
#[derive(Default)]
pub struct Buffer {
    values: Vec<f32>,
    pool: Option<Arc<BufferPool>>,
}

/// Buffers waiting to be reused.
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

    /// Returns a buffer of this length with unspecified values.
    pub(crate) fn take(self: &Arc<BufferPool>, len: usize) -> Buffer {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut values = waiting.unwrap_or_default();
        values.resize(len, 0.0);
        Buffer { values, pool: Some(self.clone()) }
    }

    fn give_back(&self, values: Vec<f32>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < self.most {
            waiting.push(values);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.values));
        }
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Buffer {
        Buffer { values, pool: None }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        self.values.clone().into()
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Buffer) -> bool {
        self.values == other.values
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} values)", self.values.len())
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = BufferPool::new(1);
        let first = pool.take(1000);
        let address = first.as_ptr();
        let second = pool.take(10);
        drop(first);
        drop(second);
        let again = pool.take(500);
        assert_eq!((again.as_ptr(), again.len()), (address, 500));
        drop(again.clone());
        assert_eq!(pool.waiting.lock().unwrap().len(), 0, "a copy belongs to no pool");
    }
}
