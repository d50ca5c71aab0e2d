//! The thread that owns the model.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use tch::Tensor;
use tokio::sync::oneshot;
use vqa_data::features::ImageRegions;

use crate::answerer::Reply;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::serve::cache::Cache;
use crate::serve::pictures::{ImageKey, Picture};
use crate::serve::problem::Problem;
use crate::serve::telemetry::Telemetry;

/// A question to ask the model.
pub(super) struct Question {
    /// Questions about one image share its regions.
    pub image: ImageKey,
    pub picture: Arc<Picture>,
    pub text: String,
    /// The number of answers to return.
    pub top_k: usize,
}

/// The questions of one request.
struct Job {
    questions: Vec<Question>,
    since: Instant,
    replies: oneshot::Sender<Result<Vec<Reply>, Problem>>,
}

/// A handle to the thread that owns the model. Requests wait in a bounded queue. When the model is free, it takes
/// waiting requests until they have `max_batch` questions, which is also the most in one batch, and never waits for more.
pub(super) struct ModelThread {
    jobs: SyncSender<Job>,
    telemetry: Arc<Telemetry>,
}

impl ModelThread {
    /// Starts the thread. It caches up to `encoded_bytes` of the model's encodings of recent images.
    pub fn start(
        checkpoint: Checkpoint,
        max_batch: usize,
        waiting: usize,
        encoded_bytes: usize,
        telemetry: Arc<Telemetry>,
    ) -> ModelThread {
        let (jobs, queue) = sync_channel(waiting);
        let of_thread = Arc::clone(&telemetry);
        std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                let model = Model { checkpoint, encoded: Cache::new(encoded_bytes) };
                run(&model, &queue, max_batch, &of_thread);
            })
            .expect("a thread can be started");
        ModelThread { jobs, telemetry }
    }

    /// Asks the questions of one request; the replies are in the order of the questions.
    pub async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Reply>, Problem> {
        let (replies, answered) = oneshot::channel();
        let job = Job { questions, since: Instant::now(), replies };
        // Counted before sending, as the thread may finish the job at once.
        self.telemetry.waiting.inc();
        self.jobs.try_send(job).map_err(|error| {
            self.telemetry.waiting.dec();
            match error {
                TrySendError::Full(_) => Problem::busy(),
                TrySendError::Disconnected(_) => Problem::stopping(),
            }
        })?;
        answered.await.unwrap_or_else(|_| Err(Problem::stopping()))
    }
}

/// The model, with a cache of its encodings of recent images.
struct Model {
    checkpoint: Checkpoint,
    encoded: Cache<ImageKey, Rc<Tensor>>,
}

impl Model {
    /// Asks questions about images.
    fn ask(
        &self,
        keys: &[ImageKey],
        images: &[&ImageRegions],
        questions: &[(usize, &str)],
        top_k: usize,
    ) -> Result<Vec<Reply>> {
        let mut encoded: Vec<Option<Rc<Tensor>>> = keys.iter().map(|key| self.encoded.get(key)).collect();
        let new: Vec<usize> = (0..keys.len()).filter(|&i| encoded[i].is_none()).collect();
        if !new.is_empty() {
            let images: Vec<&ImageRegions> = new.iter().map(|&i| images[i]).collect();
            for (i, tensor) in new.into_iter().zip(self.checkpoint.encode(&images)?.into_iter().flatten()) {
                let n_bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
                let tensor = Rc::new(tensor);
                self.encoded.insert(keys[i], Rc::clone(&tensor), n_bytes);
                encoded[i] = Some(tensor);
            }
        }
        let encoded: Option<Vec<&Tensor>> = encoded.iter().map(|encoded| encoded.as_deref()).collect();
        self.checkpoint.ask_encoded(images, encoded.as_deref(), questions, top_k)
    }
}

fn run(model: &Model, queue: &Receiver<Job>, max_batch: usize, telemetry: &Telemetry) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        let mut n_questions = jobs[0].questions.len();
        while n_questions < max_batch {
            let Ok(next) = queue.try_recv() else { break };
            n_questions += next.questions.len();
            jobs.push(next);
        }
        for job in &jobs {
            telemetry.waiting.dec();
            telemetry.queue_seconds.observe(job.since.elapsed().as_secs_f64());
        }
        // Drop jobs whose clients have gone.
        jobs.retain(|job| !job.replies.is_closed());
        answer(model, jobs, max_batch, telemetry);
    }
}

/// Asks all questions of some requests, in batches of at most `max_batch`.
fn answer(model: &Model, jobs: Vec<Job>, max_batch: usize, telemetry: &Telemetry) {
    let questions: Vec<&Question> = jobs.iter().flat_map(|job| &job.questions).collect();
    let mut replies = Vec::with_capacity(questions.len());
    for batch in questions.chunks(max_batch.max(1)) {
        match answer_batch(model, batch, telemetry) {
            Ok(of_batch) => replies.extend(of_batch.into_iter().map(Ok)),
            Err(problem) => replies.extend(batch.iter().map(|_| Err(problem.clone()))),
        }
    }
    let mut replies = replies.into_iter();
    for job in jobs {
        let of_job: Vec<Result<Reply, Problem>> = replies.by_ref().take(job.questions.len()).collect();
        // Ignored: the client may have gone in the meantime.
        let _ = job.replies.send(of_job.into_iter().collect());
    }
}

/// Asks some questions in one batch.
fn answer_batch(model: &Model, questions: &[&Question], telemetry: &Telemetry) -> Result<Vec<Reply>, Problem> {
    let mut rows: HashMap<ImageKey, usize> = HashMap::new();
    let (mut keys, mut images) = (Vec::new(), Vec::new());
    let asked: Vec<(usize, &str)> = questions
        .iter()
        .map(|question| {
            let row = *rows.entry(question.image).or_insert_with(|| {
                keys.push(question.image);
                images.push(&question.picture.regions);
                images.len() - 1
            });
            (row, question.text.as_str())
        })
        .collect();
    let top_k = questions.iter().map(|question| question.top_k).max().unwrap_or(1);
    let started = Instant::now();
    let replies = catch_unwind(AssertUnwindSafe(|| model.ask(&keys, &images, &asked, top_k)));
    telemetry.model_seconds.observe(started.elapsed().as_secs_f64());
    telemetry.batch_questions.observe(asked.len() as f64);
    let replies = match replies {
        Ok(Ok(replies)) => replies,
        Ok(Err(error)) => return Err(Problem::internal(error.to_string())),
        Err(_) => return Err(Problem::internal("a bug in vqa: the server's output says where")),
    };
    let cut = |(question, mut reply): (&&Question, Reply)| {
        reply.answers.truncate(question.top_k);
        reply
    };
    Ok(questions.iter().zip(replies).map(cut).collect())
}
