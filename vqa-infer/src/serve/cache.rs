//! A least-recently-used cache, limited in bytes.

use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

/// Maps keys to values. The least recently used values are evicted when the total exceeds the limit in bytes.
pub(super) struct Cache<K: Hash + Eq, V> {
    entries: Mutex<Entries<K, V>>,
    max_bytes: usize,
}

struct Entries<K: Hash + Eq, V> {
    /// Each value with its size in bytes.
    by_key: LruCache<K, (V, usize)>,
    n_bytes: usize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub fn new(max_bytes: usize) -> Cache<K, V> {
        Cache { entries: Mutex::new(Entries { by_key: LruCache::unbounded(), n_bytes: 0 }), max_bytes }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.get(key).map(|(value, _)| value.clone())
    }

    /// Inserts a value of `n_bytes`; a value larger than the whole cache is not kept. Returns the total size of the
    /// cached values in bytes.
    pub fn insert(&self, key: K, value: V, n_bytes: usize) -> usize {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if n_bytes <= self.max_bytes {
            if let Some((_, (_, replaced))) = entries.by_key.push(key, (value, n_bytes)) {
                entries.n_bytes -= replaced;
            }
            entries.n_bytes += n_bytes;
            while entries.n_bytes > self.max_bytes {
                let Some((_, (_, forgotten))) = entries.by_key.pop_lru() else { break };
                entries.n_bytes -= forgotten;
            }
        }
        entries.n_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let cache = Cache::new(100);
        assert_eq!(cache.insert(1, 'a', 40), 40);
        assert_eq!(cache.insert(2, 'b', 40), 80);
        assert_eq!(cache.get(&1), Some('a'));
        assert_eq!(cache.insert(3, 'c', 30), 70);
        assert_eq!([1, 2, 3].map(|key| cache.get(&key)), [Some('a'), None, Some('c')]);
        // A value under the same key replaces the old one.
        assert_eq!(cache.insert(3, 'd', 60), 100);
        assert_eq!(cache.get(&3), Some('d'));
        assert_eq!(cache.insert(4, 'e', 101), 100);
        assert_eq!(cache.get(&4), None);
    }
}
