use tch::{Device, Kind, Tensor};
use vqa_data::Batch;

/// What a VQA model is to the training loop and to prediction. Implement it to train a model of your own.
pub trait VqaModel {
    /// Answers the questions of a batch. With `train`, dropout is on.
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput;
}

/// A batch of B questions about N distinct images of at most K regions, as tensors on a device.
#[derive(Debug)]
pub struct ModelInput {
    /// [B, T] word ids, padded in front.
    pub tokens: Tensor,
    /// [N, K, D] region features.
    pub features: Tensor,
    /// `[B]` for each question, which of the N images it is about.
    pub image_rows: Tensor,
    /// [N, K], true where an image has fewer regions than K; nothing if all have K.
    pub padding: Option<Tensor>,
}

/// What a model says.
#[derive(Debug)]
pub struct ModelOutput {
    /// [B, n_answers].
    pub logits: Tensor,
    /// [B, K], the weight of each region, adding up to 1 over the image's own regions.
    pub attention: Tensor,
}

impl ModelOutput {
    /// The best answer of each question, by its id.
    pub fn best_answers(&self) -> Vec<i64> {
        Vec::try_from(self.logits.argmax(1, false)).expect("a flat tensor of integers")
    }
}

impl ModelInput {
    /// Copies a batch to a device.
    pub fn from_batch(batch: &Batch, device: Device) -> ModelInput {
        let (b, n) = (batch.len() as i64, batch.n_images() as i64);
        let (t, k, d) = (batch.max_len as i64, batch.max_regions as i64, batch.feature_dim as i64);
        let padding = batch.n_regions.iter().any(|&count| count < batch.max_regions).then(|| {
            let counts: Vec<i64> = batch.n_regions.iter().map(|&count| count as i64).collect();
            let counts = Tensor::from_slice(&counts).unsqueeze(1); // [N, 1]
            Tensor::arange(k, (Kind::Int64, Device::Cpu)).unsqueeze(0).ge_tensor(&counts).to_device(device)
        });
        ModelInput {
            tokens: Tensor::from_slice(&batch.tokens).view([b, t]).to_device(device),
            features: Tensor::from_slice(&batch.features).view([n, k, d]).to_device(device),
            image_rows: Tensor::from_slice(&batch.image_rows).to_device(device),
            padding,
        }
    }
}
