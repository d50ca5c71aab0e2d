//! The logistic loss on a GPU, in one pass over the logits.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::feed::cuda_kernel::{CudaKernel, CudaModule, KernelArgument};
use crate::loss::batch_loss::BatchLoss;

/// The kernels of `logistic.cu`.
#[derive(Debug)]
pub(crate) struct LossKernels {
    logistic_loss: CudaKernel,
    sum_losses: CudaKernel,
}

/// What [`LossKernels`] need to know about the targets of B questions.
#[derive(Debug)]
pub(crate) struct OnGpu {
    pub(crate) kernels: Arc<LossKernels>,
    /// [B + 1] int32, where each question's targets begin, and where the last ones end; any after that are padding.
    pub(crate) starts: Tensor,
}

const SOURCE: &str = include_str!("logistic.cu");
const N_THREADS: u32 = 256;

impl LossKernels {
    /// Loads the kernels for a device. `None` on a CPU, and if they cannot be compiled or loaded.
    pub(crate) fn load(device: Device) -> Option<Arc<LossKernels>> {
        CudaModule::load(device, SOURCE, "the loss is computed", LossKernels::of)
    }

    /// The kernels, emulated on a CPU.
    #[cfg(test)]
    pub(super) fn emulated() -> Arc<LossKernels> {
        LossKernels::of(&CudaModule::emulated(SOURCE, &["logistic_loss", "sum_losses"])).unwrap()
    }

    fn of(module: &CudaModule) -> Result<Arc<LossKernels>, String> {
        let kernel = |name| module.kernel(name);
        Ok(Arc::new(LossKernels { logistic_loss: kernel("logistic_loss")?, sum_losses: kernel("sum_losses")? }))
    }

    /// Computes the logistic loss of logits, [B, n_answers] of any floating type, against the answers that have a score and their
    /// scores, `[P]` each; `starts`, [B + 1], says where each question's begin.
    #[allow(unsafe_code)]
    pub(super) fn logistic(&self, logits: &Tensor, [answers, scores]: [&Tensor; 2], starts: &Tensor) -> BatchLoss {
        let logits = logits.detach().to_kind(Kind::Float).contiguous();
        let [n_questions, n_answers] = logits.size()[..] else { panic!("logits are [B, n_answers]") };
        assert!(starts.size() == [n_questions + 1] && answers.size() == scores.size());
        let grad_logits = logits.empty_like();
        let [losses, best_scores] = [(); 2].map(|()| Tensor::empty([n_questions], (Kind::Float, logits.device())));
        let sums = Tensor::empty([2], (Kind::Double, logits.device()));
        let int = |n: i64| i32::try_from(n).expect("a batch that fits into memory");
        let of_questions = [&losses, &best_scores].map(KernelArgument::Floats);
        let arguments = [
            KernelArgument::UnalignedFloats(&logits),
            KernelArgument::Ints(starts),
            KernelArgument::Longs(answers),
            KernelArgument::UnalignedFloats(scores),
            KernelArgument::Floats(&grad_logits),
            of_questions[0],
            of_questions[1],
            KernelArgument::Int(int(n_answers)),
            KernelArgument::Float((1.0 / n_questions as f64) as f32),
        ];
        let of_sum =
            [of_questions[0], of_questions[1], KernelArgument::Doubles(&sums), KernelArgument::Int(int(n_questions))];
        // SAFETY: these are the kernels' parameters, in order. The kernels access rows of logits and of their
        // gradient, the entries of each question in three vectors, the answers that a loader says are candidates, and
        // two sums; all of it in libtorch's current stream only.
        let launched = unsafe {
            self.logistic_loss
                .launch([int(n_questions) as u32, 1], N_THREADS, &arguments)
                .and_then(|()| self.sum_losses.launch([1, 1], N_THREADS, &of_sum))
        };
        launched.unwrap_or_else(|reason| panic!("the loss: {reason}"));
        BatchLoss { mean: sums.get(0), grad_logits, total_score: sums.get(1) }
    }
}
