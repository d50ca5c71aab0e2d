//! Results computed ahead of time by many threads, and used in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use rayon::Yield;

use crate::error::Result;

/// Calls `make` for each item on rayon's threads, at most `ahead` items before the results are used, and passes the
/// results to `use_made` in order on this thread, until that returns false. Returns how long this thread waited for
/// results.
///
/// # Errors
///
/// The first of `use_made`, after which nothing more is started.
pub(super) fn in_order<I: Sync, T: Send>(
    items: &[I],
    ahead: usize,
    make: &(dyn Fn(&I) -> T + Sync),
    use_made: &mut dyn FnMut(T) -> Result<bool>,
) -> Result<Duration> {
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    rayon::in_place_scope_fifo(|scope| {
        let (mut items, mut made, mut waited) = (items.iter(), VecDeque::new(), Duration::ZERO);
        loop {
            while made.len() < ahead.max(1)
                && let Some(item) = items.next()
            {
                let (sender, receiver) = sync_channel(1);
                scope.spawn_fifo(move |_| {
                    if !is_over.load(Ordering::Relaxed) {
                        // The receiver may be gone.
                        let _ = sender.send(make(item));
                    }
                });
                made.push_back(receiver);
            }
            let Some(next) = made.pop_front() else { return Ok(waited) };
            let started = Instant::now();
            // Nothing comes from a job that panicked; the scope resumes its panic.
            let Some(next) = receive(&next) else { return Ok(waited) };
            waited += started.elapsed();
            let goes_on = use_made(next);
            if !matches!(goes_on, Ok(true)) {
                is_over.store(true, Ordering::Relaxed);
                return goes_on.map(|_| waited);
            }
        }
    })
}

/// Waits for a result.
fn receive<T>(receiver: &Receiver<T>) -> Option<T> {
    loop {
        match receiver.try_recv() {
            Ok(made) => return Some(made),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        // A thread of the pool, which may be its only one, must not sleep but help with the work.
        match rayon::yield_now() {
            None => return receiver.recv().ok(),
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::error::Error;

    #[test]
    fn things_come_in_order_and_not_too_early() {
        let items: Vec<usize> = (0..200).collect();
        let run = || {
            let (n_made, n_used, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
            let mut used = Vec::new();
            let make = |&i: &usize| {
                let n_ahead = n_made.fetch_add(1, Ordering::SeqCst) - n_used.load(Ordering::SeqCst);
                most.fetch_max(n_ahead, Ordering::SeqCst);
                i * i
            };
            in_order(&items, 7, &make, &mut |made| {
                used.push(made);
                n_used.fetch_add(1, Ordering::SeqCst);
                Ok(true)
            })
            .unwrap();
            assert_eq!(used, items.iter().map(|i| i * i).collect::<Vec<_>>());
            assert!(most.into_inner() <= 7);
        };
        run();
        // On the only thread of a pool.
        rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
    }

    #[test]
    fn the_first_error_ends_it() {
        let n_made = AtomicUsize::new(0);
        let items: Vec<usize> = (0..1000).collect();
        let make = |&i: &usize| {
            n_made.fetch_add(1, Ordering::SeqCst);
            i
        };
        let mut use_made = |i| if i == 5 { Err(Error::invalid("five")) } else { Ok(true) };
        assert_eq!(in_order(&items, 4, &make, &mut use_made).unwrap_err().to_string(), "five");
        assert!(n_made.load(Ordering::SeqCst) <= 10);
        in_order(&items, 4, &make, &mut |i| Ok(i < 5)).unwrap();
        assert!(n_made.into_inner() <= 20);
    }
}
