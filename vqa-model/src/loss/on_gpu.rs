//! The logistic loss on a GPU, in one pass over the logits.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::feed::{CudaKernel, CudaModule, KernelArgument};
use crate::loss::{BatchLoss, SparseTargets};

/// The kernels of `logistic.cu`.
#[derive(Debug)]
pub(crate) struct LossKernels {
    logistic_loss: CudaKernel,
    sum_losses: CudaKernel,
}

/// What they want to know of the targets of B questions.
#[derive(Debug)]
pub(crate) struct OnGpu {
    pub(crate) kernels: Arc<LossKernels>,
    /// [B + 1] int, where each question's targets begin. Behind the last are only some that stand for nothing.
    pub(crate) starts: Tensor,
}

const SOURCE: &str = include_str!("logistic.cu");
const N_THREADS: u32 = 256;

impl LossKernels {
    /// The kernels for a device; nothing on a CPU, and where the driver refuses them.
    pub(crate) fn load(device: Device) -> Option<Arc<LossKernels>> {
        let Device::Cuda(index) = device else { return None };
        CudaModule::compile(index, SOURCE)
            .and_then(|module| LossKernels::of(&module))
            .inspect_err(|reason| tracing::warn!("the loss is computed in a slower way ({reason})"))
            .ok()
    }

    fn of(module: &CudaModule) -> Result<Arc<LossKernels>, String> {
        let kernel = |name| module.kernel(name);
        Ok(Arc::new(LossKernels { logistic_loss: kernel("logistic_loss")?, sum_losses: kernel("sum_losses")? }))
    }

    /// The logistic loss of logits, [B, n_answers] float32.
    #[allow(unsafe_code)]
    pub(super) fn logistic(&self, logits: &Tensor, targets: &SparseTargets, starts: &Tensor) -> BatchLoss {
        let logits = logits.detach().contiguous();
        let [n_questions, n_answers] = logits.size()[..] else { panic!("logits are [B, n_answers]") };
        assert!(n_questions == targets.n_questions && starts.size() == [n_questions + 1]);
        let grad_logits = logits.empty_like();
        let [losses, best_scores] = [(); 2].map(|()| Tensor::empty([n_questions], (Kind::Float, logits.device())));
        let sums = Tensor::empty([2], (Kind::Double, logits.device()));
        let int = |n: i64| i32::try_from(n).expect("a batch that fits into memory");
        let of_questions = [&losses, &best_scores].map(KernelArgument::Floats);
        let arguments = [
            KernelArgument::Floats(&logits),
            KernelArgument::Ints(starts),
            KernelArgument::Longs(&targets.answers),
            KernelArgument::Singles(&targets.scores),
            KernelArgument::Floats(&grad_logits),
            of_questions[0],
            of_questions[1],
            KernelArgument::Int(int(n_answers)),
            KernelArgument::Float((1.0 / n_questions as f64) as f32),
        ];
        let of_sum =
            [of_questions[0], of_questions[1], KernelArgument::Doubles(&sums), KernelArgument::Int(int(n_questions))];
        // SAFETY: these are the kernels' parameters, in order. They touch rows of logits and of their gradient, one number of
        // each question in three vectors, the answers that a loader says are candidates, and two sums; all of it in
        // libtorch's current stream only.
        let launched = unsafe {
            self.logistic_loss
                .launch([int(n_questions) as u32, 1], N_THREADS, &arguments)
                .and_then(|()| self.sum_losses.launch([1, 1], N_THREADS, &of_sum))
        };
        launched.unwrap_or_else(|reason| panic!("the loss: {reason}"));
        BatchLoss { mean: sums.get(0), grad_logits, total_score: sums.get(1) }
    }
}

#[cfg(test)]
mod tests {
    use vqa_data::questions::SoftTargets;

    use super::*;
    use crate::loss::LossKind;

    /// Loss, gradient and score are libtorch's, where logits are large, where several are the same, and with targets at the
    /// end that stand for nothing.
    #[test]
    fn it_is_libtorchs_loss() {
        let module = CudaModule::emulated(SOURCE, &["logistic_loss", "sum_losses"]);
        let mut soft_targets = SoftTargets::default();
        for target in [vec![(4, 0.3), (700, 1.0)], vec![], vec![(0, 0.6), (1, 0.9)], vec![(998, 1.0)]] {
            soft_targets.push(target);
        }
        let mut targets = SparseTargets::new(&soft_targets, Device::Cpu);
        let pad = |tensor: &Tensor| Tensor::cat(&[tensor, &tensor.zeros_like().narrow(0, 0, 2)], 0);
        (targets.questions, targets.answers, targets.scores) =
            (pad(&targets.questions), pad(&targets.answers), pad(&targets.scores));
        let logits = Tensor::randn([4, 999], (Kind::Float, Device::Cpu)) * 4.0;
        for (question, answer, value) in [(0, 700, 90.0), (1, 5, -95.0), (2, 1, 30.0), (3, 998, 50.0)] {
            let _ = logits.get(question).get(answer).fill_(value);
        }
        let expected = targets.loss(LossKind::Logistic, &logits);
        let starts = Tensor::from_slice(&[0i32, 2, 2, 4, 5]);
        targets.on_gpu = Some(OnGpu { kernels: LossKernels::of(&module).unwrap(), starts });
        let found = targets.loss(LossKind::Logistic, &logits);
        let value = |tensor: &Tensor| tensor.double_value(&[]);
        assert!((value(&found.mean) / value(&expected.mean) - 1.0).abs() < 1e-6);
        assert!((&found.grad_logits - &expected.grad_logits).abs().max().double_value(&[]) < 1e-7);
        assert_eq!(value(&found.total_score), value(&expected.total_score));
        assert!(value(&found.total_score) > 2.5);
        // What is no number is noticed.
        let _ = logits.get(1).get(3).fill_(f64::NAN);
        assert!(value(&targets.loss(LossKind::Logistic, &logits).mean).is_nan());
    }
}
