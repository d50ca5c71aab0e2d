//! The thread that owns the model.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::answerer::Reply;
use crate::checkpoint::Checkpoint;
use crate::serve::pictures::{ImageKey, Picture};
use crate::serve::problem::Problem;
use crate::serve::telemetry::Telemetry;

/// A question that the model is to be asked.
pub(super) struct Question {
    /// Questions about one image share its regions.
    pub image: ImageKey,
    pub picture: Arc<Picture>,
    pub text: String,
    /// How many answers are wanted.
    pub top_k: usize,
}

/// The questions of one request.
struct Job {
    questions: Vec<Question>,
    since: Instant,
    replies: oneshot::Sender<Result<Vec<Reply>, Problem>>,
}

/// The way to the model. Requests wait in a queue that has an end; whatever is in it when the model is free is asked
/// in one batch, and nothing waits for more.
pub(super) struct ModelThread {
    jobs: SyncSender<Job>,
    telemetry: Arc<Telemetry>,
}

impl ModelThread {
    pub fn start(checkpoint: Checkpoint, max_batch: usize, waiting: usize, telemetry: Arc<Telemetry>) -> ModelThread {
        let (jobs, queue) = sync_channel(waiting);
        let of_thread = Arc::clone(&telemetry);
        std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || run(&checkpoint, &queue, max_batch, &of_thread))
            .expect("a thread can be started");
        ModelThread { jobs, telemetry }
    }

    /// Asks the questions of one request; the replies are in their order.
    pub async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Reply>, Problem> {
        let (replies, answered) = oneshot::channel();
        let job = Job { questions, since: Instant::now(), replies };
        // Counted first, as the thread may be done with it at once.
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

fn run(checkpoint: &Checkpoint, queue: &Receiver<Job>, max_batch: usize, telemetry: &Telemetry) {
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
        // Nobody waits for the reply any more.
        jobs.retain(|job| !job.replies.is_closed());
        answer(checkpoint, jobs, telemetry);
    }
}

/// Asks all questions of some requests at once.
fn answer(checkpoint: &Checkpoint, jobs: Vec<Job>, telemetry: &Telemetry) {
    let questions: Vec<&Question> = jobs.iter().flat_map(|job| &job.questions).collect();
    if questions.is_empty() {
        return;
    }
    let mut rows: HashMap<ImageKey, usize> = HashMap::new();
    let mut images = Vec::new();
    let asked: Vec<(usize, &str)> = questions
        .iter()
        .map(|question| {
            let row = *rows.entry(question.image).or_insert_with(|| {
                images.push(&question.picture.regions);
                images.len() - 1
            });
            (row, question.text.as_str())
        })
        .collect();
    let top_k = questions.iter().map(|question| question.top_k).max().unwrap_or(1);
    let started = Instant::now();
    let replies = catch_unwind(AssertUnwindSafe(|| checkpoint.ask_about(&images, &asked, top_k)));
    telemetry.model_seconds.observe(started.elapsed().as_secs_f64());
    telemetry.batch_questions.observe(asked.len() as f64);
    let replies = match replies {
        Ok(Ok(replies)) => Ok(replies),
        Ok(Err(error)) => Err(Problem::internal(error.to_string())),
        Err(_) => Err(Problem::internal("a bug in vqa: the server's output says where")),
    };
    let mut replies = replies.map(Vec::into_iter);
    for job in jobs {
        let of_job = replies.as_mut().map_err(|problem| problem.clone()).map(|replies| {
            let cut = |(question, mut reply): (&Question, Reply)| {
                reply.answers.truncate(question.top_k);
                reply
            };
            job.questions.iter().zip(replies).map(cut).collect()
        });
        // A client may have gone meanwhile.
        let _ = job.replies.send(of_job);
    }
}
