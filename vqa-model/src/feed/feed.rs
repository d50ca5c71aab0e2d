//! Brings the batches of a loader to a device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Batch, Batches, Loader, LoaderOptions};

use crate::error::{Error, Result};
use crate::feed::cuda::Cuda;
use crate::feed::options::{FeaturesOnDevice, FeedOptions};
use crate::feed::order::{BatchOrder, SharedStates};
use crate::feed::padded_sizes::PaddedSizes;
use crate::feed::pieces::{N_PIECES, Ordering, pieces};
use crate::feed::resident::{Resident, fits};
use crate::feed::sent::SentBatch;
use crate::feed::staging::Staging;
use crate::loss::SparseTargets;
use crate::loss::on_gpu::{LossKernels, OnGpu};
use crate::model::ModelInput;

/// Brings the batches of a loader to a device.
pub struct Feed {
    loader: Loader,
    options: FeedOptions,
    resident: Option<Resident>,
    staging: Option<Arc<Mutex<Staging>>>,
    loss_kernels: Option<Arc<LossKernels>>,
    /// The sizes that full batches are padded to, if they are padded.
    room: Option<Arc<Mutex<PaddedSizes>>>,
    order: Option<SharedStates>,
}

/// A batch on its way to the device, split into parts.
pub struct FedBatch {
    /// The parts, in the order of the batch.
    pub parts: Vec<FedPart>,
    /// How long the loader waited for the GPU to read earlier batches.
    pub waited: Duration,
    /// The batch's size in memory.
    pub bytes: usize,
}

/// A part of a batch, which may be all of it, on its way to the device.
pub struct FedPart {
    /// Without its features, if these are on the device or on their way there.
    pub batch: Batch,
    /// Its pieces, if they are on their way to the device already.
    pub sent: Option<SentBatch>,
}

impl Feed {
    /// Creates a feed of the batches of `loader`. If the features of all images are copied to the device, `on_resident`
    /// is called with the number of images there so far, and the total.
    ///
    /// # Errors
    ///
    /// When the features of all images cannot be read.
    pub fn new(loader: &Loader, options: FeedOptions, on_resident: &mut dyn FnMut(usize, usize)) -> Result<Feed> {
        let FeedOptions { device, kind, .. } = options;
        let cuda = match device {
            Device::Cuda(index) => {
                let warn = |reason: String| tracing::warn!("batches are copied to the GPU more slowly ({reason})");
                Cuda::new(index).map_err(warn).ok()
            }
            _ => None,
        };
        let dataset = loader.dataset();
        let resident = match options.features_on_device {
            FeaturesOnDevice::Never => false,
            FeaturesOnDevice::Always => true,
            FeaturesOnDevice::Auto => cuda.as_ref().is_some_and(|cuda| fits(dataset, kind, cuda)),
        };
        let resident = resident.then(|| Resident::new(dataset, device, kind, on_resident)).transpose()?;
        let loader_options = LoaderOptions { features: resident.is_none(), ..*loader.options() };
        let loader = Loader::new(dataset.clone(), loader_options);
        let n_buffers = loader_options.prefetch + 2;
        let staging = cuda.map(|cuda| Arc::new(Mutex::new(Staging::new(device, Some(cuda), n_buffers))));
        Ok(Feed { loader, options, resident, staging, loss_kernels: None, room: None, order: None })
    }

    /// From now on, pads batches for a GPU, with images that no question is about and answers of score 0, so that there
    /// are fewer different [layouts](SentBatch::layout).
    pub fn pad_batches(&mut self) {
        self.room = Some(Arc::new(Mutex::new(PaddedSizes::new(self.loader.options().batch_size))));
    }

    /// From now on, computes losses on a GPU with kernels of our own. Compiling them takes a moment.
    pub fn load_loss(&mut self) {
        self.loss_kernels = LossKernels::load(self.options.device);
    }

    /// From now on, adds to batches for a GPU the [order](BatchOrder) in which words and images occur in them, for a
    /// recurrent network whose questions share these states.
    pub fn order_batches(&mut self, shared: SharedStates) {
        self.order = Some(shared);
    }

    /// Whether the features of all images are on the device.
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// How batches go to the device.
    pub fn options(&self) -> &FeedOptions {
        &self.options
    }

    /// The loader.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The number of batches of an epoch: [`Loader::n_batches`].
    pub fn n_batches(&self) -> usize {
        self.loader.n_batches()
    }

    /// The batches of an epoch, as in [`Loader::epoch`], on their way to the device.
    pub fn epoch(&self, epoch: u64, first: usize) -> Batches<Result<FedBatch>> {
        let (FeedOptions { kind, n_parts, .. }, staging) = (self.options, self.staging.clone());
        let starts = self.resident.as_ref().map(Resident::starts);
        let padding = self.loader.dataset().n_words() as i64;
        let order = self.order.map(|shared| Ordering { shared, padding });
        let (room, batch_size) = (self.room.clone(), self.loader.options().batch_size);
        self.loader.epoch_with(epoch, first, move |batch| {
            let mut waited = Duration::ZERO;
            let bytes = size_of_val(&*batch.features) + size_of_val(&*batch.boxes) + size_of_val(&*batch.tokens);
            let send = |mut batch: Batch| {
                let Some(staging) = &staging else { return Ok(FedPart { batch, sent: None }) };
                let mut room = room.as_ref().filter(|_| batch.len() == batch_size).map(|room| lock(room));
                let pieces = pieces(&batch, kind, starts.as_deref(), order, room.as_deref_mut());
                let sent = lock(staging).send(&pieces, &mut waited);
                drop(pieces);
                batch.features = Vec::new().into();
                Ok(FedPart { batch, sent: Some(sent.map_err(Error::Device)?) })
            };
            let parts = batch.parts(n_parts).into_iter().map(send).collect::<Result<_>>()?;
            Ok(FedBatch { parts, waited, bytes })
        })
    }

    /// Returns the tensors of a part, on the device.
    pub fn tensors(&self, part: &mut FedPart) -> (ModelInput, SparseTargets) {
        let FeedOptions { device, kind, .. } = self.options;
        if let Some(sent) = part.sent.take() {
            return self.sent_tensors(&sent);
        }
        let batch = &part.batch;
        let Some(starts) = self.resident.as_ref().map(Resident::starts) else {
            let targets = SparseTargets::new(&batch.targets, device);
            return (ModelInput::from_batch(batch, device, kind), targets);
        };
        let pieces = pieces(batch, kind, Some(&starts), None, None);
        self.assemble(pieces.list.map(|piece| piece.tensor().to_device(device)), pieces.has_short_images, &[])
    }

    /// Returns the tensors of a batch that is in the device's memory. They are views of it, or are computed from it on
    /// the device.
    pub fn sent_tensors(&self, sent: &SentBatch) -> (ModelInput, SparseTargets) {
        self.assemble(sent.pieces(), sent.layout().has_short_images, &sent.layout().steps)
    }

    fn assemble(
        &self,
        pieces: [Tensor; N_PIECES],
        has_short_images: bool,
        steps: &[i64],
    ) -> (ModelInput, SparseTargets) {
        let FeedOptions { device, kind, .. } = self.options;
        let [tokens, image_rows, n_regions, questions, answers, scores, target_starts, regions, boxes, order] = pieces;
        let k = regions.size()[1];
        let padding = has_short_images
            .then(|| Tensor::arange(k, (Kind::Int64, device)).unsqueeze(0).ge_tensor(&n_regions.unsqueeze(1)));
        let (features, boxes) = match &self.resident {
            Some(resident) => (resident.features(&regions).to_kind(kind), resident.boxes(&regions)),
            None => (regions, boxes),
        };
        let b = tokens.size()[0];
        let order = (order.numel() > 0).then(|| BatchOrder::new(&order, steps, b, features.size()[0]));
        let on_gpu = |kernels: &Arc<LossKernels>| OnGpu { kernels: kernels.clone(), starts: target_starts };
        let on_gpu = self.loss_kernels.as_ref().map(on_gpu);
        let targets = SparseTargets { n_questions: b, questions, answers, scores, on_gpu };
        (ModelInput { tokens, features, boxes, image_rows, padding, dropout: None, order }, targets)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use vqa_data::batches::Dataset;

    use super::*;
    use crate::baseline::{Baseline, ModelConfig};
    use crate::loss::{BatchLoss, LossKind};
    use crate::model::{DataDims, TrainingPass, VqaModel};

    const ORDER: Ordering = Ordering { shared: SharedStates::Beginnings, padding: 9 };

    fn plain(loader: Loader, options: FeedOptions) -> Feed {
        Feed { loader, options, resident: None, staging: None, loss_kernels: None, room: None, order: None }
    }

    /// Three questions about two images of one and three regions.
    fn batch(scale: f32) -> Batch {
        let mut targets = vqa_data::questions::SoftTargets::default();
        [vec![(4, 0.3), (1, 1.0)], vec![], vec![(0, 0.6)]].into_iter().for_each(|target| targets.push(target));
        let features = (0..2 * 3 * 5).map(|i| if (5..15).contains(&i) { 0.0 } else { scale / (1 + i) as f32 });
        Batch {
            questions: vec![3, 1, 2],
            question_ids: vec![30, 10, 20],
            image_ids: vec![7, 8, 7],
            tokens: (0..12).collect(),
            max_len: 4,
            targets,
            images: vec![1, 0],
            features: features.collect::<Vec<_>>().into(),
            boxes: (0..2 * 3 * 4).map(|i| if (4..12).contains(&i) { 0.0 } else { scale * i as f32 }).collect(),
            n_regions: vec![1, 3],
            image_rows: vec![0, 1, 0],
            max_regions: 3,
            feature_dim: 5,
            ..Batch::default()
        }
    }

    fn assert_same(found: (ModelInput, SparseTargets), expected: (ModelInput, SparseTargets)) {
        let tensors = |(input, targets): (ModelInput, SparseTargets)| {
            let ModelInput { tokens, features, boxes, image_rows, padding, .. } = input;
            [tokens, features, boxes, image_rows, padding.unwrap(), targets.dense(5), targets.scores]
        };
        for (found, expected) in tensors(found).into_iter().zip(tensors(expected)) {
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()));
            assert!(found.equal(&expected), "{found}, {expected}");
        }
    }

    /// Pieces that are copied in one block become the same tensors that libtorch creates from each alone. Buffers are
    /// reused, and what was sent from them earlier stays intact.
    #[test]
    fn batches_arrive_whole() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut staging = Staging::new(Device::Cpu, None, 2);
            let mut send = |batch: &Batch, starts: Option<&[i64]>| {
                staging.send(&pieces(batch, kind, starts, Some(ORDER), None), &mut Duration::default()).unwrap()
            };
            let loader = Loader::new(Arc::new(empty()), LoaderOptions::default());
            let options = FeedOptions { kind, ..FeedOptions::new(Device::Cpu) };
            let mut feed = plain(loader, options);
            let batches: Vec<Batch> = (1..=5).map(|scale| batch(scale as f32 / 3.0)).collect();
            let sent: Vec<_> = batches.iter().map(|batch| send(batch, None)).collect();
            for (batch, sent) in batches.iter().zip(sent) {
                let found = feed.tensors(&mut FedPart { batch: batch.clone(), sent: Some(sent) });
                let expected = ModelInput::from_batch(batch, Device::Cpu, kind);
                assert_same(found, (expected, SparseTargets::new(&batch.targets, Device::Cpu)));
            }

            // Image 0 has three regions, image 1 has one.
            let batch = &batches[3];
            let features: Vec<f32> = [&batch.features[15..30], &batch.features[..5], &[0.0; 5]].concat();
            let regions = Tensor::from_slice(&features).view([5, 5]).to_kind(kind);
            let corners: Vec<f32> = [&batch.boxes[12..24], &batch.boxes[..4], &[0.0; 4]].concat();
            let boxes = Tensor::from_slice(&corners).view([5, 4]);
            feed.resident = Some(Resident { regions, boxes, starts: [0, 3, 4].into() });
            for sent in [None, Some(send(batch, Some(&[0, 3, 4])))] {
                let found = feed.tensors(&mut FedPart { batch: batch.clone(), sent });
                let expected = ModelInput::from_batch(batch, Device::Cpu, kind);
                assert_same(found, (expected, SparseTargets::new(&batch.targets, Device::Cpu)));
            }
        }
    }

    /// Padding gives batches of different questions the same layout, and changes neither loss nor score nor gradients.
    #[test]
    fn padding_changes_nothing_but_the_layout() {
        tch::manual_seed(1);
        let config: ModelConfig = serde_json::from_str(
            r#"{"hid_dim": 6, "lm": {"word_emb_dim": 4}, "topdown_att": {"hid_dim": 7}, "mlp": {"hid_dim": 8}}"#,
        )
        .unwrap();
        let vs = VarStore::new(Device::Cpu);
        let model = Baseline::new(vs.root(), &config, DataDims { n_words: 12, n_answers: 5, feature_dim: 5 });
        let loader = Loader::new(Arc::new(empty()), LoaderOptions::default());
        let options = FeedOptions::new(Device::Cpu);
        let mut feed = plain(loader, options);
        let mut other = batch(1.0);
        // Another image, and other answers.
        other.images.push(2);
        other.n_regions = vec![3, 1, 3];
        other.image_rows = vec![0, 1, 2];
        other.features = vec![0.5; 3 * 3 * 5].into();
        other.boxes = vec![0.0; 3 * 3 * 4];
        other.targets = Default::default();
        [vec![(2, 1.0)], vec![], vec![]].into_iter().for_each(|target| other.targets.push(target));
        for is_resident in [false, true] {
            let starts: Arc<[i64]> = [0, 3, 4, 7].into();
            let regions = Tensor::rand([8, 5], (Kind::Float, Device::Cpu));
            let _ = regions.get(7).zero_();
            let boxes = Tensor::zeros([8, 4], (Kind::Float, Device::Cpu));
            feed.resident = is_resident.then(|| Resident { regions, boxes, starts: starts.clone() });
            let mut staging = Staging::new(Device::Cpu, None, 2);
            let mut room = PaddedSizes::new(512);
            let mut send = |batch: &Batch, padded: bool| {
                let starts = is_resident.then_some(&*starts);
                let room = padded.then_some(&mut room);
                staging.send(&pieces(batch, Kind::Float, starts, Some(ORDER), room), &mut Duration::default()).unwrap()
            };
            for batch in [&batch(0.3), &other] {
                let [plain, padded] = [false, true].map(|padded| {
                    let (input, targets) = feed.sent_tensors(&send(batch, padded));
                    assert_eq!(input.features.size()[0], if padded { 8 } else { batch.n_images() as i64 });
                    let pass = TrainingPass::from_forward(model.forward(&input, false));
                    let BatchLoss { mean, grad_logits, total_score } =
                        targets.loss(LossKind::Logistic, &pass.output.logits);
                    pass.backward(&grad_logits);
                    let take_gradient = |parameter: Tensor| {
                        let gradient = parameter.grad().copy();
                        let _ = parameter.grad().zero_();
                        gradient
                    };
                    let mut found = vec![mean, total_score];
                    found.extend(vs.trainable_variables().into_iter().map(take_gradient));
                    found
                });
                for (found, expected) in padded.iter().zip(&plain) {
                    assert!(found.allclose(expected, 1e-5, 1e-7, false), "{found}, {expected}");
                }
            }
            assert_eq!(send(&batch(0.3), true).layout(), send(&other, true).layout());
            assert_ne!(send(&batch(0.3), false).layout(), send(&other, false).layout());
        }
    }

    fn empty() -> Dataset {
        let split = vqa_data::questions::Split {
            questions: Vec::new(),
            annotations: vqa_data::questions::Annotations::new(),
            source_starts: vec![0],
            cut_from: None,
        };
        let (words, answers) =
            (vqa_data::questions::WordDict::from_questions([]), vqa_data::questions::AnswerDict::default());
        Dataset::new(split, &words, &answers, 4, Vec::new()).unwrap()
    }

    #[test]
    fn scores_on_the_device_are_those_of_the_targets() {
        let targets = batch(1.0).targets;
        for best in [[4, 4, 0], [1, 1, 1], [0, 2, 3]] {
            let logits = Tensor::from_slice(&best.map(i64::from)).one_hot(5).to_kind(Kind::Float);
            let found = SparseTargets::new(&targets, Device::Cpu).total_score(&logits);
            assert_eq!(found.kind(), Kind::Double);
            assert_eq!(found.double_value(&[]), targets.total_score(&best.map(i64::from)));
        }
    }
}
