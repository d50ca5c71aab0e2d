//! The way of a loader's batches to the device.
//!
//! - On a CPU a batch becomes tensors when its turn comes.
//! - For a GPU the loader's thread lays each batch into pinned memory ahead of time, features in the number type of the
//!   arithmetic, and has the GPU copy it in one go. The copy stands in line with the computations, for tch has no other streams:
//!   the program waits for neither, but the two do not overlap on the GPU itself.
//! - Where the features of all images fit on the GPU, they are put there once. A batch is then a few kilobytes: tokens, targets,
//!   and the places of its regions.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};
use vqa_data::{Batch, Batches, Dataset, ElementType, Loader, LoaderOptions};
use vqa_model::ModelInput;

use crate::Result;
use crate::config::{FeaturesOnDevice, TrainConfig};
use crate::cuda::{Cuda, Pinned};
use crate::loss::{SparseTargets, target_lists};
use crate::optim::numbers_mut;

/// The batches of a loader, for a device.
pub(crate) struct Feed {
    loader: Loader,
    device: Device,
    kind: Kind,
    /// Parts that a batch is cut into.
    n_parts: usize,
    resident: Option<Resident>,
    staging: Option<Arc<Mutex<Staging>>>,
}

/// A batch, cut into parts.
pub(crate) struct Fed {
    pub(crate) parts: Vec<Part>,
    /// How long the loader waited for the GPU, and not the GPU for the loader.
    pub(crate) waited: Duration,
    /// What the batch took in memory.
    pub(crate) bytes: usize,
}

/// A batch or a part of one.
pub(crate) struct Part {
    /// Without features, where these are on the device.
    pub(crate) batch: Batch,
    /// What is on its way to the device already.
    sent: Option<[Tensor; N_PIECES]>,
}

impl Feed {
    /// The batches of `loader`, each cut into `n_parts`. `put` is told how many images have been put on the device, and of
    /// how many, where all are.
    pub(crate) fn new(
        loader: &Loader,
        (device, n_parts): (Device, usize),
        config: &TrainConfig,
        put: &mut dyn FnMut(usize, usize),
    ) -> Result<Feed> {
        let kind = config.precision.kind();
        let cuda = match device {
            Device::Cuda(index) => {
                let warn = |reason: String| tracing::warn!("batches go to the GPU by a slower way ({reason})");
                Cuda::new(index).map_err(warn).ok()
            }
            _ => None,
        };
        let dataset = loader.dataset();
        let resident = match config.features_on_device {
            FeaturesOnDevice::Never => false,
            FeaturesOnDevice::Always => true,
            FeaturesOnDevice::Auto => cuda.as_ref().is_some_and(|cuda| fits(dataset, kind, cuda)),
        };
        let resident = resident.then(|| Resident::new(dataset, device, kind, put)).transpose()?;
        let options = LoaderOptions { features: resident.is_none(), ..*loader.options() };
        let loader = Loader::new(dataset.clone(), options);
        let staging = cuda.map(|cuda| Arc::new(Mutex::new(Staging::new(device, Some(cuda), options.prefetch + 2))));
        Ok(Feed { loader, device, kind, n_parts, resident, staging })
    }

    /// [`Loader::n_batches`].
    pub(crate) fn n_batches(&self) -> usize {
        self.loader.n_batches()
    }

    /// [`Loader::epoch`].
    pub(crate) fn epoch(&self, epoch: u64, first: usize) -> Batches<Result<Fed>> {
        let (n_parts, kind, staging) = (self.n_parts, self.kind, self.staging.clone());
        let starts = self.resident.as_ref().map(|resident| resident.starts.clone());
        self.loader.epoch_with(epoch, first, move |batch| {
            let mut waited = Duration::ZERO;
            let bytes = size_of_val(&*batch.features) + size_of_val(&*batch.boxes) + size_of_val(&*batch.tokens);
            let make = |mut batch: Batch| {
                let Some(staging) = &staging else { return Ok(Part { batch, sent: None }) };
                let mut staging = staging.lock().unwrap_or_else(PoisonError::into_inner);
                let sent = staging.send(&pieces(&batch, kind, starts.as_deref()), &mut waited);
                batch.features = Vec::new().into();
                Ok(Part { batch, sent: Some(sent.map_err(vqa_model::Error::Device)?) })
            };
            let parts = batch.parts(n_parts).into_iter().map(make).collect::<Result<_>>()?;
            Ok(Fed { parts, waited, bytes })
        })
    }

    /// The tensors of a part.
    pub(crate) fn tensors(&self, part: &mut Part) -> (ModelInput, SparseTargets) {
        let batch = &part.batch;
        if part.sent.is_none() && self.resident.is_none() {
            let targets = SparseTargets::new(&batch.targets, self.device);
            return (ModelInput::from_batch(batch, self.device, self.kind), targets);
        }
        let starts = self.resident.as_ref().map(|resident| &*resident.starts);
        let sent = part.sent.take().unwrap_or_else(|| {
            pieces(batch, self.kind, starts)
                .map(|Piece { numbers, shape }| numbers.tensor().view(&shape[..]).to_device(self.device))
        });
        let [tokens, image_rows, n_regions, questions, answers, scores, regions] = sent;
        let k = batch.max_regions as i64;
        let is_padded = batch.n_regions.iter().any(|&n| n < batch.max_regions);
        let padding = is_padded
            .then(|| Tensor::arange(k, (Kind::Int64, self.device)).unsqueeze(0).ge_tensor(&n_regions.unsqueeze(1)));
        let features = match &self.resident {
            Some(resident) => resident.features(&regions).to_kind(self.kind),
            None => regions,
        };
        let targets = SparseTargets { n_questions: batch.len() as i64, questions, answers, scores };
        (ModelInput { tokens, features, image_rows, padding }, targets)
    }
}

/// The features of all images of a dataset, on a device.
#[derive(Debug)]
struct Resident {
    /// [regions + 1, D], image after image; the last one is zero.
    regions: Tensor,
    /// The first region of each image, and the region that is zero.
    starts: Arc<[i64]>,
}

/// The smallest number type that changes no number of the arithmetic.
fn resident_kind(dataset: &Dataset, kind: Kind) -> Kind {
    match (kind, dataset.element_type()) {
        (Kind::Float, ElementType::F16) => Kind::Half,
        (kind, _) => kind,
    }
}

/// Whether the features fit into the GPU's memory, and leave enough for all else.
fn fits(dataset: &Dataset, kind: Kind, cuda: &Cuda) -> bool {
    /// The article's model takes about a gigabyte and a half for a step of 512 questions, and half of one for itself.
    const MARGIN: u64 = 4 << 30;
    let n: usize = (0..dataset.n_images()).map(|image| dataset.n_regions(image)).sum();
    let size = (n + 1) * dataset.feature_dim() * resident_kind(dataset, kind).elt_size_in_bytes();
    let gb = |bytes: u64| bytes as f64 / 1e9;
    match cuda.free_memory() {
        Ok(free) if size as u64 + MARGIN <= free => true,
        Ok(free) => {
            tracing::warn!(
                "the features of {} take {:.1} GB, the GPU has {:.1} GB free, and training wants {:.1}: they go there batch by batch",
                dataset.source_names(),
                gb(size as u64),
                gb(free),
                gb(MARGIN)
            );
            false
        }
        Err(reason) => {
            tracing::warn!("features go to the GPU batch by batch, for its free memory is unknown ({reason})");
            false
        }
    }
}

impl Resident {
    fn new(dataset: &Dataset, device: Device, kind: Kind, put: &mut dyn FnMut(usize, usize)) -> Result<Resident> {
        /// Numbers that are read at once.
        const CHUNK: usize = 1 << 25;
        let (n_images, dim) = (dataset.n_images(), dataset.feature_dim());
        let mut starts = vec![0];
        starts.extend((0..n_images).scan(0, |end, image| {
            *end += dataset.n_regions(image) as i64;
            Some(*end)
        }));
        let n_regions = |first: usize, end: usize| starts[end] - starts[first];
        let regions = Tensor::zeros([starts[n_images] + 1, dim as i64], (resident_kind(dataset, kind), device));
        let mut first = 0;
        while first < n_images {
            let small = |&end: &usize| n_regions(first, end) as usize * dim <= CHUNK;
            let end = (first + 1..=n_images).take_while(small).last().unwrap_or(first + 1);
            let mut chunk = Tensor::zeros([n_regions(first, end), dim as i64], (Kind::Float, Device::Cpu));
            dataset.read_features(first..end, numbers_mut(&mut chunk))?;
            regions.narrow(0, starts[first], n_regions(first, end)).copy_(&chunk.to_device(device));
            first = end;
            put(first, n_images);
        }
        Ok(Resident { regions, starts: starts.into() })
    }

    /// The features [N, K, D] at these places [N, K].
    fn features(&self, places: &Tensor) -> Tensor {
        let [n, k] = places.size()[..] else { panic!("a place for each region") };
        self.regions.index_select(0, &places.view([-1])).view([n, k, -1])
    }
}

/// Numbers of a batch that go to the device together.
struct Piece<'a> {
    numbers: Numbers<'a>,
    shape: Vec<i64>,
}

enum Numbers<'a> {
    I64(Cow<'a, [i64]>),
    F32(Cow<'a, [f32]>),
    /// To be rounded.
    Bf16(&'a [f32]),
}

const N_PIECES: usize = 7;

/// Tokens [B, T], rows of images `[B]`, numbers of regions `[N]`; questions, answers and scores of the targets `[P]`; features [N, K, D],
/// or, with `starts` of the images, the places of their regions [N, K].
fn pieces<'a>(batch: &'a Batch, kind: Kind, starts: Option<&[i64]>) -> [Piece<'a>; N_PIECES] {
    let (b, n, t) = (batch.len() as i64, batch.n_images() as i64, batch.max_len as i64);
    let (k, d) = (batch.max_regions as i64, batch.feature_dim as i64);
    let n_regions: Vec<i64> = batch.n_regions.iter().map(|&n| n as i64).collect();
    let regions = match (starts, kind) {
        (Some(starts), _) => {
            let nothing = starts[starts.len() - 1];
            let places = batch.images.iter().zip(&n_regions).flat_map(|(&image, &n)| {
                (0..k).map(move |region| if region < n { starts[image] + region } else { nothing })
            });
            Piece { numbers: Numbers::I64(places.collect()), shape: vec![n, k] }
        }
        (None, Kind::BFloat16) => Piece { numbers: Numbers::Bf16(&batch.features), shape: vec![n, k, d] },
        (None, _) => Piece { numbers: Numbers::F32(Cow::Borrowed(&*batch.features)), shape: vec![n, k, d] },
    };
    let (questions, answers, scores) = target_lists(&batch.targets);
    let p = vec![scores.len() as i64];
    let integers = |numbers: Vec<i64>, shape| Piece { numbers: Numbers::I64(Cow::Owned(numbers)), shape };
    [
        Piece { numbers: Numbers::I64(Cow::Borrowed(&batch.tokens)), shape: vec![b, t] },
        Piece { numbers: Numbers::I64(Cow::Borrowed(&batch.image_rows)), shape: vec![b] },
        integers(n_regions, vec![n]),
        integers(questions, p.clone()),
        integers(answers, p.clone()),
        Piece { numbers: Numbers::F32(Cow::Owned(scores)), shape: p },
        regions,
    ]
}

impl Numbers<'_> {
    fn kind(&self) -> Kind {
        match self {
            Numbers::I64(_) => Kind::Int64,
            Numbers::F32(_) => Kind::Float,
            Numbers::Bf16(_) => Kind::BFloat16,
        }
    }

    /// Length in bytes.
    fn size(&self) -> usize {
        match self {
            Numbers::I64(numbers) => size_of_val(&**numbers),
            Numbers::F32(numbers) => size_of_val(&**numbers),
            Numbers::Bf16(numbers) => 2 * numbers.len(),
        }
    }

    fn tensor(&self) -> Tensor {
        match self {
            Numbers::I64(numbers) => Tensor::from_slice(numbers),
            Numbers::F32(numbers) => Tensor::from_slice(numbers),
            Numbers::Bf16(numbers) => Tensor::from_slice(numbers).to_kind(Kind::BFloat16),
        }
    }

    /// Writes the bytes, with the help of rayon's threads. `to` begins where any number may.
    fn write(&self, to: &mut [u8]) {
        /// Numbers that a thread works on at once.
        const CHUNK: usize = 1 << 16;
        let copy = |from: &[u8], to: &mut [u8]| {
            from.par_chunks(CHUNK).zip(to.par_chunks_mut(CHUNK)).for_each(|(from, to)| to.copy_from_slice(from));
        };
        match self {
            Numbers::I64(numbers) => copy(bytemuck::cast_slice(numbers), to),
            Numbers::F32(numbers) => copy(bytemuck::cast_slice(numbers), to),
            Numbers::Bf16(numbers) => {
                let to: &mut [bf16] = bytemuck::cast_slice_mut::<u8, u16>(to).reinterpret_cast_mut();
                numbers
                    .par_chunks(CHUNK)
                    .zip(to.par_chunks_mut(CHUNK))
                    .for_each(|(from, to)| to.convert_from_f32_slice(from));
            }
        }
    }
}

/// Memory in which batches are laid together, and from which they are copied to a device, in turn.
#[derive(Debug)]
struct Staging {
    device: Device,
    /// Nothing on a CPU.
    cuda: Option<Cuda>,
    slots: Vec<Option<Slot>>,
    next: usize,
}

#[derive(Debug)]
enum Slot {
    Pinned(Pinned),
    /// On a CPU; whole words, so that any number may begin at the start.
    Plain(Vec<u64>),
}

impl Staging {
    fn new(device: Device, cuda: Option<Cuda>, n_slots: usize) -> Staging {
        Staging { device, cuda, slots: (0..n_slots).map(|_| None).collect(), next: 0 }
    }

    /// Has some numbers copied to the device, as soon as a slot is free. Adds to `waited` how long that took.
    fn send(&mut self, pieces: &[Piece; N_PIECES], waited: &mut Duration) -> Result<[Tensor; N_PIECES], String> {
        /// Pieces begin where libtorch's own tensors might.
        const ALIGNED: usize = 64;
        let mut ends = [0; N_PIECES];
        let mut size = 0;
        for (end, piece) in ends.iter_mut().zip(pieces) {
            size += piece.numbers.size();
            *end = size;
            size = size.next_multiple_of(ALIGNED);
        }
        let start = |i: usize| ends[i] - pieces[i].numbers.size();
        let device = self.device;
        let slot = self.slot(size, waited)?;
        let bytes = match slot {
            Slot::Pinned(pinned) => pinned.bytes_mut(),
            Slot::Plain(words) => bytemuck::cast_slice_mut(words),
        };
        for (i, piece) in pieces.iter().enumerate() {
            piece.numbers.write(&mut bytes[start(i)..ends[i]]);
        }
        let block = match slot {
            Slot::Pinned(pinned) => {
                let block = Tensor::empty([size as i64], (Kind::Uint8, device));
                pinned.copy_to(&block)?;
                block
            }
            Slot::Plain(words) => Tensor::from_slice(&bytemuck::cast_slice::<u64, u8>(words)[..size]),
        };
        Ok(std::array::from_fn(|i| {
            let bytes = block.narrow(0, start(i) as i64, (ends[i] - start(i)) as i64);
            bytes.view_dtype(pieces[i].numbers.kind()).view(&pieces[i].shape[..])
        }))
    }

    /// The next slot, of at least this size, when the GPU has read what was in it.
    fn slot(&mut self, size: usize, waited: &mut Duration) -> Result<&mut Slot, String> {
        let n_slots = self.slots.len();
        let place = &mut self.slots[self.next];
        self.next = (self.next + 1) % n_slots;
        let reusable = match place {
            Some(Slot::Pinned(pinned)) => {
                let tic = Instant::now();
                pinned.wait()?;
                *waited += tic.elapsed();
                pinned.len() >= size
            }
            Some(Slot::Plain(words)) => 8 * words.len() >= size,
            None => false,
        };
        if !reusable {
            // Some more, for the next batch may be a little larger.
            let size = size + size / 8;
            *place = Some(match &self.cuda {
                Some(cuda) => Slot::Pinned(Pinned::new(cuda, size)?),
                None => Slot::Plain(vec![0; size.div_ceil(8)]),
            });
        }
        Ok(place.as_mut().expect("made above"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three questions about two images of one and three regions.
    fn batch(scale: f32) -> Batch {
        let mut targets = vqa_data::SoftTargets::default();
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
            n_regions: vec![1, 3],
            image_rows: vec![0, 1, 0],
            max_regions: 3,
            feature_dim: 5,
            ..Batch::default()
        }
    }

    fn assert_same(found: (ModelInput, SparseTargets), expected: (ModelInput, SparseTargets)) {
        let tensors = |(input, targets): (ModelInput, SparseTargets)| {
            let ModelInput { tokens, features, image_rows, padding } = input;
            [tokens, features, image_rows, padding.unwrap(), targets.dense(5), targets.scores]
        };
        for (found, expected) in tensors(found).into_iter().zip(tensors(expected)) {
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()));
            assert!(found.equal(&expected), "{found}, {expected}");
        }
    }

    /// What is laid together, copied in one go and taken apart is what libtorch makes of the numbers one by one. Slots are used
    /// again, and what was sent before stays.
    #[test]
    fn batches_arrive_whole() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut staging = Staging::new(Device::Cpu, None, 2);
            let mut send = |batch: &Batch, starts: Option<&[i64]>| {
                staging.send(&pieces(batch, kind, starts), &mut Duration::default()).unwrap()
            };
            let loader = Loader::new(Arc::new(empty()), LoaderOptions::default());
            let mut feed = Feed { loader, device: Device::Cpu, kind, n_parts: 1, resident: None, staging: None };
            let batches: Vec<Batch> = (1..=5).map(|scale| batch(scale as f32 / 3.0)).collect();
            let sent: Vec<_> = batches.iter().map(|batch| send(batch, None)).collect();
            for (batch, sent) in batches.iter().zip(sent) {
                let found = feed.tensors(&mut Part { batch: batch.clone(), sent: Some(sent) });
                let expected = ModelInput::from_batch(batch, Device::Cpu, kind);
                assert_same(found, (expected, SparseTargets::new(&batch.targets, Device::Cpu)));
            }

            // Image 0 has three regions, image 1 has one.
            let batch = &batches[3];
            let numbers: Vec<f32> = [&batch.features[15..30], &batch.features[..5], &[0.0; 5]].concat();
            let regions = Tensor::from_slice(&numbers).view([5, 5]).to_kind(kind);
            feed.resident = Some(Resident { regions, starts: [0, 3, 4].into() });
            for sent in [None, Some(send(batch, Some(&[0, 3, 4])))] {
                let found = feed.tensors(&mut Part { batch: batch.clone(), sent });
                let expected = ModelInput::from_batch(batch, Device::Cpu, kind);
                assert_same(found, (expected, SparseTargets::new(&batch.targets, Device::Cpu)));
            }
        }
    }

    fn empty() -> Dataset {
        let split = vqa_data::Split {
            questions: Vec::new(),
            annotations: vqa_data::Annotations::new(),
            source_starts: vec![0],
        };
        let (words, answers) = (vqa_data::WordDict::from_questions([]), vqa_data::AnswerDict::default());
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
