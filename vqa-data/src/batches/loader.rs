//! Batches in a seeded order, prepared ahead of time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use crate::batches::batch::Batch;
use crate::batches::buffer::BufferPool;
use crate::batches::dataset::Dataset;
use crate::batches::sampler::Sampler;
use crate::batches::share::Share;
use crate::error::Result;

/// How a [`Loader`] builds batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Questions in a batch; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// The order of the questions.
    pub sampler: Sampler,
    /// Seed of the order.
    pub seed: u64,
    /// How many batches are prepared ahead of the consumer. Each takes the memory of a batch.
    pub prefetch: usize,
    /// Whether batches have features and boxes. A caller that has them already needs only [`Batch::images`].
    pub features: bool,
    /// The share of each epoch to load, if several processes share the work.
    pub share: Share,
}

impl Default for LoaderOptions {
    fn default() -> LoaderOptions {
        let (sampler, share) = (Sampler::Random, Share::All);
        LoaderOptions { batch_size: 512, sampler, seed: 0, prefetch: 2, features: true, share }
    }
}

/// Builds the batches of a dataset, epoch by epoch.
///
/// The content of every batch depends only on the options and the epoch, not on threads or timing.
#[derive(Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    /// Feature memory of batches that the consumer has dropped.
    pool: Arc<BufferPool>,
}

impl Loader {
    /// Creates a loader for `dataset`.
    ///
    /// # Panics
    ///
    /// When the batch size is 0.
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions) -> Loader {
        assert!(options.batch_size > 0, "a batch has at least one question");
        // The batches waiting in the channel, one being built, one being used.
        let pool = BufferPool::new(options.prefetch + 2);
        Loader { dataset, options, pool }
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The options.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// Returns the same loader, but for this share of its batches.
    pub fn with_share(&self, share: Share) -> Loader {
        Loader { options: LoaderOptions { share, ..self.options }, ..self.clone() }
    }

    /// Number of batches in an epoch, whatever the loader's share of them.
    pub fn n_batches(&self) -> usize {
        self.dataset.len().div_ceil(self.options.batch_size)
    }

    /// Starts an epoch at batch number `first` (0 for the full epoch). A separate thread builds the batches, with the
    /// help of rayon's pool, up to `prefetch` ahead of the consumer; dropping the iterator stops it.
    pub fn epoch(&self, epoch: u64, first: usize) -> Batches {
        self.epoch_with(epoch, first, |batch| batch)
    }

    /// Like [`Loader::epoch`], but the thread also applies `make` to each batch.
    pub fn epoch_with<T: Send + 'static>(
        &self,
        epoch: u64,
        first: usize,
        mut make: impl FnMut(Batch) -> T + Send + 'static,
    ) -> Batches<T> {
        let LoaderOptions { batch_size, sampler, seed, prefetch, features, share } = self.options;
        let (sender, receiver) = sync_channel(prefetch);
        let (dataset, pool) = (self.dataset.clone(), self.pool.clone());
        let thread = std::thread::spawn(move || {
            let order = sampler.order(&dataset, batch_size, seed, epoch);
            let share_of = |whole: &[usize]| {
                share.of_batch(whole.len(), |i| dataset.location(whole[i - 1]) != dataset.location(whole[i]))
            };
            let of_epoch = order.chunks(batch_size).enumerate().skip(first);
            let mut batches =
                of_epoch.filter(|&(number, _)| share.has_batch(number)).map(|(_, whole)| whole).peekable();
            while let Some(whole) = batches.next() {
                // Left to page faults, a disk would read far more than is needed, and wait in between.
                if let Some(next) = batches.peek().filter(|_| features) {
                    dataset.prefetch(&next[share_of(next)]);
                }
                let made = Batch::gather_share(&pool, &dataset, whole, share_of(whole), features).map(&mut make);
                let failed = made.is_err();
                if sender.send(made).is_err() || failed {
                    return;
                }
            }
        });
        Batches { receiver: Some(receiver), thread: Some(thread) }
    }
}

/// An iterator over the batches of an epoch, or over what [`Loader::epoch_with`] made of them. It ends after the first
/// error.
#[derive(Debug)]
pub struct Batches<T = Batch> {
    receiver: Option<Receiver<Result<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> Iterator for Batches<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let next = self.receiver.as_ref()?.recv().ok();
        if next.is_none() {
            self.stop();
        }
        next
    }
}

impl<T> Batches<T> {
    /// Waits for the thread, and resumes its panic if it had one: a bug must not look like a short epoch.
    fn stop(&mut self) {
        drop(self.receiver.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<T> Drop for Batches<T> {
    fn drop(&mut self) {
        self.stop();
    }
}
