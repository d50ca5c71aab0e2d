//! The interface of a VQA model: a batch in, logits and attention out.

use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Batch, Dataset};

use crate::cpu::convert;
use crate::feed::order::{BatchOrder, SharedStates};

/// A VQA model, as the training loop and prediction see it. To train a model of your own, implement
/// [`forward`](VqaModel::forward); every other method has a default, and can be overridden with something faster.
pub trait VqaModel {
    /// Answers the questions of a batch with operations that libtorch can differentiate. With `train`, dropout is on.
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput;

    /// Answers the questions of a batch, without dropout and without gradients.
    fn infer(&self, input: &ModelInput) -> ModelOutput {
        tch::no_grad(|| self.forward(input, false))
    }

    /// Returns the part of the computation that depends on the images but not on the questions, [N, K, E], given
    /// features [N, K, D] as in a [`ModelInput`]; each image is encoded independently of the others. A caller that asks
    /// about the same images repeatedly, such as a server, keeps it for [`VqaModel::infer_encoded`]. `None` if the
    /// model has no such part.
    fn encode_images(&self, features: &Tensor) -> Option<Tensor> {
        let _ = features;
        None
    }

    /// [`VqaModel::infer`], given what [`VqaModel::encode_images`] returned for the images.
    fn infer_encoded(&self, input: &ModelInput, encoded: &Tensor) -> ModelOutput {
        let _ = encoded;
        self.infer(input)
    }

    /// Whether a training step of the model may be recorded as a CUDA graph and replayed for every batch of the same
    /// shapes. If so, [`VqaModel::train`] must never wait for the GPU, as reading a value does, nor copy anything to
    /// it, and the operations that it queues must depend on nothing but the shapes. Batches are then padded with images
    /// of zeros that no question is about, so an image's result must not depend on the others, as with batch norm.
    fn can_be_recorded(&self) -> bool {
        false
    }

    /// Whether the model, when it trains on a GPU, needs the [order](ModelInput::order) in which words and images
    /// occur; if so, which states its recurrent network shares between questions.
    fn shared_states(&self) -> Option<SharedStates> {
        None
    }

    /// Groups of parameters, each given by the part of its name before the first dot, in the order in which the
    /// backward half of a training step completes their gradients; those that are only complete at the end are left
    /// out. With several processes, the gradients of a group are summed as soon as they are complete: the backward half
    /// that [`VqaModel::train`] returns may report each group by its index.
    fn gradient_order(&self) -> &[&[&str]] {
        &[]
    }

    /// The forward half of a training step.
    fn train<'a>(&'a self, input: &'a ModelInput) -> TrainingPass<'a> {
        TrainingPass::from_forward(self.forward(input, true))
    }
}

/// A training step between its forward and its backward half.
pub struct TrainingPass<'a> {
    /// Logits and attention, with dropout.
    pub output: ModelOutput,
    backward: Box<Backward<'a>>,
}

/// Adds to the gradients of all parameters, given the gradient of a loss with respect to the logits; reports the index
/// of each group whose gradients are complete.
type Backward<'a> = dyn FnOnce(&Tensor, &mut dyn FnMut(usize)) + 'a;

impl<'a> TrainingPass<'a> {
    /// A step whose backward half is `backward`: given the gradient of a loss with respect to the logits,
    /// [B, n_answers], it adds to the gradients of all parameters.
    pub fn new(output: ModelOutput, backward: impl FnOnce(&Tensor) + 'a) -> TrainingPass<'a> {
        TrainingPass::in_groups(output, move |grad_logits, _| backward(grad_logits))
    }

    /// [`TrainingPass::new`] with a backward half that reports, in order, when the gradients of each group of
    /// [`VqaModel::gradient_order`] are complete.
    pub fn in_groups(
        output: ModelOutput,
        backward: impl FnOnce(&Tensor, &mut dyn FnMut(usize)) + 'a,
    ) -> TrainingPass<'a> {
        TrainingPass { output, backward: Box::new(backward) }
    }

    /// A step whose backward half is libtorch's autograd.
    pub fn from_forward(output: ModelOutput) -> TrainingPass<'a> {
        let ModelOutput { logits, attention } = output;
        let output = ModelOutput { logits: logits.detach(), attention: attention.detach() };
        // A scalar whose gradient with respect to the logits is `grad_logits`.
        TrainingPass::new(output, move |grad_logits| (logits * grad_logits).sum(Kind::Float).backward())
    }

    /// Runs the backward half: adds to the gradients of all parameters, given the gradient of the loss with respect to
    /// the logits, [B, n_answers].
    pub fn backward(self, grad_logits: &Tensor) {
        self.backward_in_groups(grad_logits, &mut |_| {});
    }

    /// [`TrainingPass::backward`], calling `complete` with the index of each group of [`VqaModel::gradient_order`] once
    /// its gradients are complete. A backward half that does not report groups never calls it.
    pub fn backward_in_groups(self, grad_logits: &Tensor, complete: &mut dyn FnMut(usize)) {
        (self.backward)(grad_logits, complete);
    }
}

/// Sizes that come from the data, not from the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataDims {
    /// Words in the dictionary, not counting padding.
    pub n_words: i64,
    /// Candidate answers.
    pub n_answers: i64,
    /// Length of a region's feature vector, D.
    pub feature_dim: i64,
}

impl DataDims {
    /// Returns the sizes of a dataset and of the dictionaries that it is encoded with.
    pub fn of(dataset: &Dataset) -> DataDims {
        DataDims {
            n_words: dataset.n_words() as i64,
            n_answers: dataset.n_answers() as i64,
            feature_dim: dataset.feature_dim() as i64,
        }
    }
}

/// A batch of B questions about N distinct images of at most K regions, as tensors on a device.
#[derive(Debug)]
pub struct ModelInput {
    /// [B, T] word ids, padded in front.
    pub tokens: Tensor,
    /// [N, K, D] region features. The model computes in their dtype: float32, or bfloat16 with float32 weights.
    pub features: Tensor,
    /// [N, K, 4] float32: x1 y1 x2 y2 of each region, in pixels of its image; zeros where there is no region.
    pub boxes: Tensor,
    /// `[B]`: for each question, the index of the image that it is about, below N.
    pub image_rows: Tensor,
    /// [N, K], true where there is no region, in images that have fewer than K; `None` if all have K.
    pub padding: Option<Tensor>,
    /// The seed of a training step's dropout. With `None`, and in models that ignore it, dropout draws from libtorch's
    /// generator.
    pub dropout: Option<DropoutSeed>,
    /// The order in which words and images occur, which a feed for a GPU gives to models that
    /// [need it](VqaModel::shared_states).
    pub order: Option<BatchOrder>,
}

/// Determines the dropout of some questions. A question of a step gets the same dropout however the step's batch is
/// split into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutSeed {
    /// The seed of the step.
    pub seed: u64,
    /// The index of the first question in the step's batch.
    pub first: usize,
}

/// What a model computes for a batch.
#[derive(Debug)]
pub struct ModelOutput {
    /// [B, n_answers].
    pub logits: Tensor,
    /// [B, K], the weight of each region. The weights of the image's own regions add up to 1; those of padding are 0.
    pub attention: Tensor,
}

impl ModelOutput {
    /// Returns the id of the best answer to each question.
    pub fn best_answers(&self) -> Vec<i64> {
        Vec::try_from(self.logits.argmax(1, false)).expect("a flat tensor of integers")
    }
}

impl ModelInput {
    /// Returns a mask [N, K] that is true where there is no region, given how many each of the N images has; `None` if
    /// all have K.
    pub fn padding_of(n_regions: &[usize], max_regions: usize, device: Device) -> Option<Tensor> {
        n_regions.iter().any(|&count| count < max_regions).then(|| {
            let counts: Vec<i64> = n_regions.iter().map(|&count| count as i64).collect();
            let counts = Tensor::from_slice(&counts).unsqueeze(1); // [N, 1]
            let places = Tensor::arange(max_regions as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0); // [1, K]
            places.ge_tensor(&counts).to_device(device)
        })
    }

    /// Copies a batch to a device, its features converted to `kind`.
    pub fn from_batch(batch: &Batch, device: Device, kind: Kind) -> ModelInput {
        let (b, n) = (batch.len() as i64, batch.n_images() as i64);
        let (t, k, d) = (batch.max_len as i64, batch.max_regions as i64, batch.feature_dim as i64);
        ModelInput {
            tokens: Tensor::from_slice(&batch.tokens).view([b, t]).to_device(device),
            features: convert::tensor(&batch.features, &[n, k, d], device, kind),
            boxes: Tensor::from_slice(&batch.boxes).view([n, k, 4]).to_device(device),
            image_rows: Tensor::from_slice(&batch.image_rows).to_device(device),
            padding: ModelInput::padding_of(&batch.n_regions, batch.max_regions, device),
            dropout: None,
            order: None,
        }
    }

    /// Expands values of each image, [N, K, dim], to each question's image, [B, K, dim].
    pub(crate) fn of_questions(&self, of_images: &Tensor) -> Tensor {
        /// With more images than this, the matrix product is slower than the contended additions of `index_select`'s
        /// backward pass.
        const FEW: i64 = 1024;
        let [n, k, dim] = of_images.size()[..] else { panic!("[N, K, dim]") };
        let by_product = of_images.device().is_cuda() && of_images.kind() == Kind::BFloat16 && n <= FEW;
        if !(by_product && of_images.requires_grad()) {
            return of_images.index_select(0, &self.image_rows);
        }
        // The same values, but the backward pass is a product too: it sums the gradients of an image's questions in
        // float32, in a fixed order, and many times faster.
        let images = Tensor::arange(n, (Kind::Int64, of_images.device())).unsqueeze(0);
        let is_of = self.image_rows.unsqueeze(1).eq_tensor(&images).to_kind(Kind::BFloat16); // [B, N]
        is_of.matmul(&of_images.view([n, k * dim])).view([-1, k, dim])
    }

    /// Turns the scores of each question's regions into weights that add up to 1, with 0 on padding: [B, K] float32.
    pub(crate) fn attention(&self, scores: &Tensor) -> Tensor {
        let weights = |scores: &Tensor| scores.softmax(1, Kind::Float);
        match &self.padding {
            // The lowest finite value, since a softmax over infinities alone is NaN.
            Some(padding) => {
                weights(&scores.masked_fill(&padding.index_select(0, &self.image_rows), f64::from(f32::MIN)))
            }
            None => weights(scores),
        }
    }
}
