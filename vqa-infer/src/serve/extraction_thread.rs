//! The thread that extracts the regions of pictures that clients send, so that questions about known pictures need not
//! wait for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use vqa_data::features::{Extractor, decode_image};
use vqa_model::memory::or_out_of_memory;

use crate::serve::cache::Cache;
use crate::serve::pictures::{ImageKey, Picture};
use crate::serve::problem::Problem;
use crate::serve::telemetry::Telemetry;

/// A cache of the most recently used pictures.
pub(super) type PictureCache = Cache<ImageKey, Arc<Picture>>;

/// A picture that was received.
pub(super) struct Received {
    pub bytes: Vec<u8>,
    /// Its share of the memory for waiting pictures, released on drop.
    pub share: Option<OwnedSemaphorePermit>,
}

struct Job {
    key: ImageKey,
    received: Received,
    reply: oneshot::Sender<Result<Arc<Picture>, Problem>>,
}

/// A handle to the thread that owns the extractor.
pub(super) struct ExtractionThread {
    jobs: SyncSender<Job>,
}

impl ExtractionThread {
    pub fn start(
        extractor: Box<dyn Extractor>,
        max_pixels: u64,
        cache: Arc<PictureCache>,
        telemetry: Arc<Telemetry>,
    ) -> ExtractionThread {
        /// The waiting pictures are also limited in bytes, so this limit matters for small ones only.
        const WAITING: usize = 256;
        let (jobs, queue) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("extract".to_owned())
            .spawn(move || run(&*extractor, max_pixels, &queue, &cache, &telemetry))
            .expect("a thread can be started");
        ExtractionThread { jobs }
    }

    /// Extracts the regions of a picture, unless they are in the cache by the time it is its turn.
    pub async fn extract(&self, key: ImageKey, received: Received) -> Result<Arc<Picture>, Problem> {
        let (reply, extracted) = oneshot::channel();
        self.jobs.try_send(Job { key, received, reply }).map_err(|error| match error {
            TrySendError::Full(_) => Problem::busy(),
            TrySendError::Disconnected(_) => Problem::stopping(),
        })?;
        extracted.await.unwrap_or_else(|_| Err(Problem::stopping()))
    }
}

fn run(extractor: &dyn Extractor, max_pixels: u64, queue: &Receiver<Job>, cache: &PictureCache, telemetry: &Telemetry) {
    for Job { key, received, reply } in queue {
        // The client has gone.
        if reply.is_closed() {
            continue;
        }
        let picture = cache.get(&key).map_or_else(
            || {
                let started = Instant::now();
                let picture = extract(extractor, received.bytes, max_pixels)?;
                telemetry.extract_seconds.observe(started.elapsed().as_secs_f64());
                let n_bytes = cache.insert(key, Arc::clone(&picture), picture.n_bytes());
                telemetry.cache_bytes.set(n_bytes as i64);
                Ok(picture)
            },
            Ok,
        );
        drop(received.share);
        // Ignored: the client may have gone in the meantime.
        let _ = reply.send(picture);
    }
}

fn extract(extractor: &dyn Extractor, bytes: Vec<u8>, max_pixels: u64) -> Result<Arc<Picture>, Problem> {
    let extracted = catch_unwind(AssertUnwindSafe(|| {
        let picture = decode_image(Path::new("the picture"), bytes, max_pixels)
            .map_err(|error| Problem::unusable(error.to_string()))?;
        let regions = or_out_of_memory(|| extractor.regions(&picture))
            .map_err(|error| Problem::internal(error.to_string()))?
            .map_err(|error| Problem::unusable(error.to_string()))?;
        let size = [picture.width(), picture.height()];
        Ok(Arc::new(Picture { regions, size: Some(size) }))
    }));
    extracted.unwrap_or_else(|_| Err(Problem::internal("a bug in vqa: the server's output says where")))
}
