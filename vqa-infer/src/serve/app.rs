//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use vqa_data::features::{Extractor, ExtractorInfo};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::serve::cache::Cache;
use crate::serve::collector::Collector;
use crate::serve::extraction_thread::{ExtractionThread, PictureCache, Received};
use crate::serve::gallery::Gallery;
use crate::serve::guard::Guard;
use crate::serve::model_thread::ModelThread;
use crate::serve::options::{Limits, ServeOptions};
use crate::serve::pictures::{ImageKey, Picture};
use crate::serve::problem::Problem;
use crate::serve::telemetry::Telemetry;
use crate::serve::thumbnail::Thumbnail;

/// What all requests share.
pub(super) struct App {
    pub limits: Limits,
    pub guard: Guard,
    pub telemetry: Arc<Telemetry>,
    pub model: ModelThread,
    pub about: About,
    pub gallery: Option<Gallery>,
    pub collector: Option<Collector>,
    pub thumbnails: Cache<u64, Thumbnail>,
    /// Bounds how many pictures are drawn at a time, so that thumbnails leave the cores to the model.
    pub drawing: Semaphore,
    pictures: Arc<PictureCache>,
    extraction: Option<ExtractionThread>,
    /// One permit for each byte of the pictures that are being received or wait for extraction.
    pending: Arc<Semaphore>,
    stopping: AtomicBool,
}

/// The response of `GET /api/model`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct About {
    /// The name of the run and its checkpoint.
    pub name: String,
    pub epoch: u64,
    /// Mean soft score on the validation split, in percent.
    pub val_score: Option<f64>,
    pub n_answers: usize,
    pub n_words: usize,
    pub max_question_len: usize,
    /// How regions are extracted from a picture; `None` if only images of the split can be asked about.
    pub extractor: Option<ExtractorInfo>,
    /// The number of images of the split.
    pub n_images: usize,
    /// Whether their pictures can be shown.
    pub has_pictures: bool,
    /// Frequent questions.
    pub examples: Vec<String>,
    /// Whether verdicts on answers are kept.
    pub collects: bool,
    pub max_picture_bytes: usize,
    pub max_question_chars: usize,
}

impl App {
    /// Starts the threads of a server.
    pub fn start(
        checkpoint: Checkpoint,
        extractor: Option<Box<dyn Extractor>>,
        gallery: Option<Gallery>,
        guard: Guard,
        options: &ServeOptions,
    ) -> Result<App> {
        const EXAMPLES: usize = 8;
        let limits = options.limits;
        let telemetry = Arc::new(Telemetry::new());
        let collector =
            options.collect.as_deref().map(|path| Collector::open(path, limits.collected_bytes)).transpose()?;
        let examples = gallery.as_ref().map_or(Vec::new(), |gallery| gallery.frequent_questions(EXAMPLES));
        let about = About {
            name: checkpoint.name(),
            epoch: checkpoint.header().epoch,
            val_score: checkpoint.header().val_score,
            n_answers: checkpoint.answers().len(),
            n_words: checkpoint.words().len(),
            max_question_len: checkpoint.max_question_len(),
            extractor: extractor.as_ref().map(|extractor| extractor.info()),
            n_images: gallery.as_ref().map_or(0, Gallery::len),
            has_pictures: gallery.as_ref().is_some_and(Gallery::has_pictures),
            examples: examples.into_iter().map(str::to_owned).collect(),
            collects: collector.is_some(),
            max_picture_bytes: limits.picture_bytes,
            max_question_chars: limits.question_chars,
        };
        let quarter = limits.cache_bytes / 4;
        let pictures = Arc::new(Cache::new(2 * quarter));
        let extraction = extractor.map(|extractor| {
            ExtractionThread::start(extractor, limits.pixels, Arc::clone(&pictures), Arc::clone(&telemetry))
        });
        Ok(App {
            limits,
            guard,
            model: ModelThread::start(checkpoint, options.max_batch, limits.waiting, quarter, Arc::clone(&telemetry)),
            telemetry,
            about,
            gallery,
            collector,
            thumbnails: Cache::new(quarter),
            drawing: Semaphore::new(2),
            pictures,
            extraction,
            pending: Arc::new(Semaphore::new(limits.pending_bytes)),
            stopping: AtomicBool::new(false),
        })
    }

    /// Makes `/healthz` report from now on that the server is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Reserves `n_bytes` of the memory for received pictures.
    pub fn share(&self, n_bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let n_bytes = u32::try_from(n_bytes).map_err(|_| Problem::busy())?;
        Arc::clone(&self.pending).try_acquire_many_owned(n_bytes).map_err(|_| Problem::busy())
    }

    /// A cached picture.
    fn recall(&self, key: &ImageKey) -> Option<Arc<Picture>> {
        let picture = self.pictures.get(key);
        let counter = if picture.is_some() { &self.telemetry.cache_hits } else { &self.telemetry.cache_misses };
        counter.inc();
        picture
    }

    /// Returns the regions of a picture that is in the split or was sent before.
    pub async fn known(self: &Arc<Self>, key: ImageKey) -> Result<Arc<Picture>, Problem> {
        if let Some(picture) = self.recall(&key) {
            return Ok(picture);
        }
        let ImageKey::OfSplit(image_id) = key else {
            return Err(Problem::not_found("this picture is no longer remembered: send it again"));
        };
        let app = Arc::clone(self);
        let read = spawn_blocking(move || {
            let regions = app.gallery.as_ref().and_then(|gallery| gallery.regions(image_id));
            let Some(regions) = regions else {
                return Err(Problem::not_found(format!(
                    "there is no image {image_id} here: GET /api/images lists them"
                )));
            };
            let regions = regions.map_err(|error| Problem::internal(error.to_string()))?;
            let picture = Arc::new(Picture { regions, size: None });
            let n_bytes = app.pictures.insert(key, Arc::clone(&picture), picture.n_bytes());
            app.telemetry.cache_bytes.set(n_bytes as i64);
            Ok(picture)
        });
        read.await.unwrap_or_else(|_| Err(Problem::internal("the features cannot be read")))
    }

    /// Returns the key and the regions of a picture that was sent. The regions are extracted unless they are cached.
    pub async fn sent(&self, received: Received) -> Result<(ImageKey, Arc<Picture>), Problem> {
        let Some(extraction) = &self.extraction else {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "the model's training features do not record how they were extracted, so a picture cannot be given the \
                 same kind: ask about an image of the split",
            ));
        };
        let digest = move || (ImageKey::of_content(&received.bytes), received);
        let (key, received) =
            spawn_blocking(digest).await.map_err(|_| Problem::internal("the picture cannot be read"))?;
        if let Some(picture) = self.recall(&key) {
            return Ok((key, picture));
        }
        Ok((key, extraction.extract(key, received).await?))
    }
}
