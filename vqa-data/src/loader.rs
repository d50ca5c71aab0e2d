//! Batches in a seeded order, made ahead of time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::buffer::BufferPool;
use crate::dataset::Dataset;
use crate::{Batch, Result};

/// In which order the questions of an epoch come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Shuffled anew each epoch.
    #[default]
    Random,
    /// Images shuffled anew each epoch, the questions about an image following each other, so that a batch
    /// has fewer distinct images.
    Grouped,
    /// As in the files.
    Sequential,
}

impl Sampler {
    /// The places in the dataset of an epoch's questions, in order: the same for the same seed and epoch.
    pub fn order(self, dataset: &Dataset, seed: u64, epoch: u64) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        let mut order: Vec<usize> = (0..dataset.len()).collect();
        match self {
            Sampler::Sequential => {}
            Sampler::Random => order.shuffle(&mut rng),
            Sampler::Grouped => {
                let mut groups: Vec<Vec<usize>> = Vec::new();
                let mut group_of = HashMap::new();
                for question in order.drain(..) {
                    let group = *group_of.entry(dataset.location(question)).or_insert_with(|| {
                        groups.push(Vec::new());
                        groups.len() - 1
                    });
                    groups[group].push(question);
                }
                groups.shuffle(&mut rng);
                order.extend(groups.into_iter().flatten());
            }
        }
        order
    }
}

/// How a [`Loader`] makes batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Questions in a batch; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// The order of the questions.
    pub sampler: Sampler,
    /// Fixes the order.
    pub seed: u64,
    /// How many batches are made ahead. Each takes its size in memory.
    pub prefetch: usize,
}

impl Default for LoaderOptions {
    fn default() -> LoaderOptions {
        LoaderOptions { batch_size: 512, sampler: Sampler::Random, seed: 0, prefetch: 2 }
    }
}

/// Makes the batches of a dataset, epoch by epoch.
///
/// The content of every batch depends on the options and the epoch only, not on threads or timing.
#[derive(Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    /// Feature memory of batches that the consumer has dropped.
    pool: Arc<BufferPool>,
}

impl Loader {
    /// A loader for `dataset`.
    ///
    /// # Panics
    ///
    /// When the batch size is 0.
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions) -> Loader {
        assert!(options.batch_size > 0, "a batch has at least one question");
        // Those waiting in the channel, one being made, one being used.
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

    /// Number of batches in an epoch.
    pub fn n_batches(&self) -> usize {
        self.dataset.len().div_ceil(self.options.batch_size)
    }

    /// Starts an epoch at its batch number `first` (0 for all of it). A thread of its own makes the batches,
    /// with the help of rayon's pool, up to `prefetch` ahead of the consumer; dropping the iterator stops it.
    pub fn epoch(&self, epoch: u64, first: usize) -> Batches {
        let LoaderOptions { batch_size, sampler, seed, prefetch } = self.options;
        let (sender, receiver) = sync_channel(prefetch);
        let (dataset, pool) = (self.dataset.clone(), self.pool.clone());
        let thread = std::thread::spawn(move || {
            let order = sampler.order(&dataset, seed, epoch);
            for questions in order.chunks(batch_size).skip(first) {
                let batch = Batch::gather_into(&pool, &dataset, questions);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Batches { receiver: Some(receiver), thread: Some(thread) }
    }
}

/// The batches of an epoch, an iterator. It ends after the first error.
#[derive(Debug)]
pub struct Batches {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let next = self.receiver.as_ref()?.recv().ok();
        if next.is_none() {
            self.stop();
        }
        next
    }
}

impl Batches {
    /// Waits for the thread, and hands on its panic, if it had one: a bug must not look like a short epoch.
    fn stop(&mut self) {
        drop(self.receiver.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop();
    }
}
