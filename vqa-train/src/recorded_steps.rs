//! Steps that a GPU has recorded and makes again by itself.
//!
//! A step is some hundred small operations, and to queue them takes the host longer than the GPU needs for them. So it
//! is recorded once for each layout of batches, as a CUDA graph, and from then on is one operation.

use std::time::Instant;

use tch::{Device, Kind, Tensor};
use vqa_model::VqaModel;
use vqa_model::feed::{CudaGraph, CudaGraphs, FedBatch, Feed, SentBatch};
use vqa_model::loss::{LossKind, n_in_mean};

use crate::metrics::sums::Sums;
use crate::optim::optimizer::Optimizer;
use crate::position::Position;
use crate::step::Step;

/// Steps that are made in the ordinary way before one is recorded: they set up what libtorch, cuBLAS and cuDNN keep.
const WARM_UP: usize = 3;

/// Layouts of which steps are recorded, the latest ones. Soon there are few: see `Feed::pad_batches`.
const MAX_RECORDED: usize = 16;

/// Steps that a GPU has recorded.
pub(crate) struct RecordedSteps<'a> {
    model: &'a dyn VqaModel,
    loss: LossKind,
    /// `None` where there is nothing to record with, or a step cannot be recorded.
    graphs: Option<CudaGraphs>,
    n_ordinary: usize,
    /// Of each layout of batches one, the latest first.
    recorded: Vec<RecordedStep>,
}

/// A whole step: forward, backward, and of the optimiser.
struct RecordedStep {
    graph: CudaGraph,
    /// What it reads.
    input: SentBatch,
    /// `[2]` float64, what it writes: the mean loss and the sum of scores.
    output: Tensor,
}

impl<'a> RecordedSteps<'a> {
    /// None yet. Has the feed pad its batches, so that few layouts are many steps, if steps can be recorded: on a GPU
    /// that has all features, of a model that allows it, of whole batches, by a process that is alone: with others it
    /// meets in the middle of a step.
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

    /// Makes a whole step with the batch, the optimiser's part of it included, if one of its layout was recorded, or
    /// can be now. Otherwise the batch is as it was, for the ordinary way.
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
        // The last batch of an epoch may be smaller, and another one each time.
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

/// Records a step with batches of the layout of `sent`. None is made.
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
