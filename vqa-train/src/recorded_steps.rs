//! Training steps recorded as CUDA graphs.
//!
//! A step consists of some hundred small operations, and queueing them takes the host longer than the GPU takes to
//! execute them. So a step is recorded once for each batch layout, and from then on is a single operation to queue.

use std::time::Instant;

use tch::{Device, Kind, Tensor};
use vqa_model::VqaModel;
use vqa_model::feed::{CudaGraph, CudaGraphs, FedBatch, Feed, SentBatch};
use vqa_model::loss::{LossKind, n_in_mean};

use crate::metrics::sums::Sums;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;
use crate::step::Step;

/// The number of ordinary steps before the first is recorded, in which libtorch, cuBLAS and cuDNN set up their state.
const WARM_UP: usize = 3;

/// The most recorded steps to keep, one for each of the latest layouts. Padding keeps the number of layouts small: see
/// `Feed::pad_batches`.
const MAX_RECORDED: usize = 16;

/// The recorded steps of a model.
pub(crate) struct RecordedSteps<'a> {
    model: &'a dyn VqaModel,
    loss: LossKind,
    /// `None` if CUDA graphs are not available, or a step cannot be recorded.
    graphs: Option<CudaGraphs>,
    n_ordinary: usize,
    /// One for each batch layout, the latest first.
    recorded: Vec<RecordedStep>,
}

/// A complete step: forward pass, backward pass and optimiser.
struct RecordedStep {
    graph: CudaGraph,
    /// The batch that it reads.
    input: SentBatch,
    /// `[2]` float64, which it writes: the mean loss and the sum of scores.
    output: Tensor,
}

impl<'a> RecordedSteps<'a> {
    /// Creates an empty set. If steps can be recorded, makes the feed pad its batches, so that they have few layouts.
    ///
    /// Steps can be recorded on a GPU that has all features, for a model that allows it, if batches are not split into
    /// parts and there is only one process: several processes would have to communicate in the middle of a step.
    pub(crate) fn new(
        model: &'a dyn VqaModel,
        loss: LossKind,
        n_processes: usize,
        feed: &mut Feed,
    ) -> RecordedSteps<'a> {
        let is_whole = feed.options().n_parts == 1 && n_processes == 1;
        let can_record = model.can_be_recorded() && feed.is_resident() && is_whole;
        let graphs = match feed.options().device {
            Device::Cuda(index) if can_record => CudaGraphs::new(index)
                .inspect_err(|reason| {
                    tracing::warn!("steps are not recorded as CUDA graphs, and are slower ({reason})")
                })
                .ok(),
            _ => None,
        };
        if graphs.is_some() {
            feed.pad_batches();
        }
        RecordedSteps { model, loss, graphs, n_ordinary: 0, recorded: Vec::new() }
    }

    /// Makes a complete step with the batch, including the optimiser's part, if a step of the same layout has been or
    /// can now be recorded. Otherwise returns `None` and leaves the batch to be trained on without recording.
    pub(crate) fn make(
        &mut self,
        feed: &Feed,
        batch: &FedBatch,
        optimizer: &mut Optimizer,
        (position, lr): (Position, f64),
    ) -> Option<Step> {
        let graphs = self.graphs.as_ref()?;
        let [part] = &batch.parts[..] else { return None };
        let sent = part.sent.as_ref()?;
        let tic = Instant::now();
        if self.n_ordinary < WARM_UP {
            self.n_ordinary += 1;
            return None;
        }
        // The last batch of an epoch may be smaller, and have another layout each time.
        if part.batch.len() < feed.loader().options().batch_size {
            return None;
        }
        if !self.recorded.iter().any(|known| known.input.layout() == sent.layout()) {
            match record(graphs, (self.model, self.loss), feed, sent, optimizer) {
                Ok(step) => {
                    self.recorded.truncate(MAX_RECORDED - 1);
                    self.recorded.insert(0, step);
                }
                Err(reason) => {
                    tracing::warn!("steps cannot be recorded as CUDA graphs, and are slower ({reason})");
                    self.graphs = None;
                    return None;
                }
            }
        }
        let mut known = self.recorded.iter_mut();
        let RecordedStep { graph, input, output } = known.find(|known| known.input.layout() == sent.layout())?;
        optimizer.begin_step();
        input.copy_from(sent);
        graph.replay();
        let values = output.copy();
        let sums = Sums {
            n_steps: 1,
            n_questions: part.batch.len(),
            n_in_mean_loss: Some(n_in_mean(self.loss, &part.batch.targets)),
            backward: tic.elapsed(),
            ..Sums::default()
        };
        let question_ids = part.batch.question_ids.iter().take(5).copied().collect();
        Some(Step::of_one_part((position, lr), sums, (values.get(0), values.get(1)), question_ids))
    }
}

/// Records a step for batches with the layout of `sent`, without executing it.
fn record(
    graphs: &CudaGraphs,
    (model, loss): (&dyn VqaModel, LossKind),
    feed: &Feed,
    sent: &SentBatch,
    optimizer: &mut Optimizer,
) -> Result<RecordedStep, String> {
    let input = sent.copy();
    let output = Tensor::zeros([2], (Kind::Double, feed.options().device));
    let graph = graphs.record(|| {
        let (batch, targets) = feed.sent_tensors(&input);
        let pass = model.train(&batch);
        let of_batch = targets.loss(loss, &pass.output.logits);
        output.get(0).copy_(&of_batch.mean);
        output.get(1).copy_(&of_batch.total_score);
        pass.backward(&of_batch.grad_logits);
        optimizer.finish_step();
    })?;
    Ok(RecordedStep { graph, input, output })
}
