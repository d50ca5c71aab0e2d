//! What a VQA model is: a batch in, logits and attention out.

use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Batch, Dataset};

use crate::cpu::convert;
use crate::feed::order::{BatchOrder, SharedStates};

/// What a VQA model is to the training loop and to prediction. Implement [`forward`](VqaModel::forward) to
/// train a model of your own; the other two call it, and may be overridden by something faster.
pub trait VqaModel {
    /// Answers the questions of a batch, in a way that libtorch can differentiate. With `train`, dropout is on.
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput;

    /// Answers the questions of a batch, without dropout and without gradients.
    fn infer(&self, input: &ModelInput) -> ModelOutput {
        tch::no_grad(|| self.forward(input, false))
    }

    /// What the model computes of images, [N, K, D] as in a [`ModelInput`], whatever is asked about them: [N, K, E], of
    /// each image by itself. Whoever asks about the same images again and again, as a server does, keeps it for
    /// [`VqaModel::infer_encoded`]. `None` if there is no such thing.
    fn encode_images(&self, features: &Tensor) -> Option<Tensor> {
        let _ = features;
        None
    }

    /// [`VqaModel::infer`], with what [`VqaModel::encode_images`] has made of the images.
    fn infer_encoded(&self, input: &ModelInput, encoded: &Tensor) -> ModelOutput {
        let _ = encoded;
        self.infer(input)
    }

    /// Whether a GPU may record a training step of the model, as a CUDA graph, and do it again by itself for every batch
    /// of the same shapes. Then [`VqaModel::train`] must never wait for the GPU, as reading a value does, nor copy
    /// anything to it, and what it has the GPU do must depend on nothing but the shapes.
    fn can_be_recorded(&self) -> bool {
        false
    }

    /// Whether the model wants to be told in what [order](ModelInput::order) words and images occur, where it trains on a GPU,
    /// and which states its recurrent network has in common.
    fn shared_states(&self) -> Option<SharedStates> {
        None
    }

    /// Beginnings of parameters' names, group by group in the order in which a training step's backward half completes
    /// their gradients: those that come before the end. Whoever adds up gradients of several processes begins there. The
    /// half that [`VqaModel::train`] returns may tell of each group, by its number.
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

/// Adds to the gradients of all parameters, given that of a loss by the logits, and tells which group of them is complete.
type Backward<'a> = dyn FnOnce(&Tensor, &mut dyn FnMut(usize)) + 'a;

impl<'a> TrainingPass<'a> {
    /// A step whose backward half is `backward`: given the gradient of a loss by the logits, [B, n_answers], it
    /// adds to the gradients of all parameters.
    pub fn new(output: ModelOutput, backward: impl FnOnce(&Tensor) + 'a) -> TrainingPass<'a> {
        TrainingPass::in_groups(output, move |grad_logits, _| backward(grad_logits))
    }

    /// [`TrainingPass::new`] with a backward half that tells when the gradients of a group of
    /// [`VqaModel::gradient_order`] are complete, in order.
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
        // A scalar whose gradient by the logits is the one given.
        TrainingPass::new(output, move |grad_logits| (logits * grad_logits).sum(Kind::Float).backward())
    }

    /// The backward half: adds to the gradients of all parameters, given that of the loss by the logits,
    /// [B, n_answers].
    pub fn backward(self, grad_logits: &Tensor) {
        self.backward_in_groups(grad_logits, &mut |_| {});
    }

    /// [`TrainingPass::backward`], which calls `complete` with the number of each group of
    /// [`VqaModel::gradient_order`] whose gradients are complete, unless it does not know.
    pub fn backward_in_groups(self, grad_logits: &Tensor, complete: &mut dyn FnMut(usize)) {
        (self.backward)(grad_logits, complete);
    }
}

/// Sizes that come from the data, not from the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataDims {
    /// Words in the dictionary, padding not counted.
    pub n_words: i64,
    /// Candidate answers.
    pub n_answers: i64,
    /// Length of a region's feature vector, D.
    pub feature_dim: i64,
}

impl DataDims {
    /// The sizes of a dataset and of the dictionaries that it is encoded with.
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
    /// [N, K, D] region features. The model computes in their number type: float32, or bfloat16 with float32 weights.
    pub features: Tensor,
    /// [N, K, 4] float32: x1 y1 x2 y2 of each region, in pixels of its image; zeros where there is no region.
    pub boxes: Tensor,
    /// `[B]` for each question, which of the N images it is about.
    pub image_rows: Tensor,
    /// [N, K], true where an image has fewer regions than K; `None` if all have K.
    pub padding: Option<Tensor>,
    /// What the dropout of a training step follows from; with `None`, and in models that do not know it, that is
    /// libtorch's generator.
    pub dropout: Option<DropoutSeed>,
    /// In what order words and images occur; a feed for a GPU says it to models that [want it](VqaModel::shared_states).
    pub order: Option<BatchOrder>,
}

/// What the dropout of some questions follows from: the same for the same question of a step, whichever part of the
/// step's batch is computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutSeed {
    /// The seed of the step.
    pub seed: u64,
    /// The place of the first question in the step's batch.
    pub first: usize,
}

/// What a model computes for a batch.
#[derive(Debug)]
pub struct ModelOutput {
    /// [B, n_answers].
    pub logits: Tensor,
    /// [B, K], the weight of each region. Those of the image's own regions add up to 1, those of padding are 0.
    pub attention: Tensor,
}

impl ModelOutput {
    /// The best answer of each question, by its id.
    pub fn best_answers(&self) -> Vec<i64> {
        Vec::try_from(self.logits.argmax(1, false)).expect("a flat tensor of integers")
    }
}

impl ModelInput {
    /// [N, K], true where an image has fewer regions than K, given how many each of the N images has; `None` if all have K.
    pub fn padding_of(n_regions: &[usize], max_regions: usize, device: Device) -> Option<Tensor> {
        n_regions.iter().any(|&count| count < max_regions).then(|| {
            let counts: Vec<i64> = n_regions.iter().map(|&count| count as i64).collect();
            let counts = Tensor::from_slice(&counts).unsqueeze(1); // [N, 1]
            let places = Tensor::arange(max_regions as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0); // [1, K]
            places.ge_tensor(&counts).to_device(device)
        })
    }

    /// Copies a batch to a device, its features in this number type.
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

    /// What there is of each image, [N, K, dim], for each question, [B, K, dim].
    pub(crate) fn of_questions(&self, of_images: &Tensor) -> Tensor {
        /// From here on a product is slower than additions that wait for each other.
        const FEW: i64 = 1024;
        let [n, k, dim] = of_images.size()[..] else { panic!("[N, K, dim]") };
        let by_product = of_images.device().is_cuda() && of_images.kind() == Kind::BFloat16 && n <= FEW;
        if !(by_product && of_images.requires_grad()) {
            return of_images.index_select(0, &self.image_rows);
        }
        // The same, but its backward pass is a product too: it adds up the gradients of an image's questions in float32
        // and in one order, and many times faster.
        let images = Tensor::arange(n, (Kind::Int64, of_images.device())).unsqueeze(0);
        let is_of = self.image_rows.unsqueeze(1).eq_tensor(&images).to_kind(Kind::BFloat16); // [B, N]
        is_of.matmul(&of_images.view([n, k * dim])).view([-1, k, dim])
    }

    /// Scores of each question's regions, [B, K] float32, as weights that add up to 1, none of it on padding.
    pub(crate) fn attention(&self, scores: &Tensor) -> Tensor {
        let weights = |scores: &Tensor| scores.softmax(1, Kind::Float);
        match &self.padding {
            // The lowest finite number, since a softmax over nothing but infinities is NaN.
            Some(padding) => {
                weights(&scores.masked_fill(&padding.index_select(0, &self.image_rows), f64::from(f32::MIN)))
            }
            None => weights(scores),
        }
    }
}
