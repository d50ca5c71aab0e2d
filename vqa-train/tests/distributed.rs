//! Several processes train a user-defined model. Here they are threads, with a collective of the test's own.

use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};

use tch::nn::{self, Module, VarStore};
use tch::{Device, Kind, Tensor};
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::RegionSource;
use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};
use vqa_data::shapes::{ShapesSpec, ShapesSplit, write_shapes};
use vqa_model::run::RunDir;
use vqa_model::{DataDims, ModelInput, ModelOutput, VqaModel};
use vqa_train::distributed::{Collective, SingleProcess};
use vqa_train::{Event, Result, TrainConfig, Trainer};

/// What the threads share.
struct Meeting {
    barrier: Barrier,
    sum: Mutex<Option<Tensor>>,
}

/// One of several threads.
struct Thread<'a> {
    rank: usize,
    world_size: usize,
    meeting: &'a Meeting,
}

impl Thread<'_> {
    /// Replaces the tensor of each thread with the sum of those that are given, added in no particular order.
    fn meet(&self, tensor: &mut Tensor, gives: bool) {
        let wait = || {
            self.meeting.barrier.wait();
        };
        wait();
        if gives {
            let mut sum = self.meeting.sum.lock().unwrap();
            *sum = Some(sum.take().map_or_else(|| tensor.copy(), |sum| sum + &*tensor));
        }
        wait();
        let sum = self.meeting.sum.lock().unwrap().as_ref().unwrap().copy();
        tch::no_grad(|| tensor.copy_(&sum));
        wait();
        if self.rank == 0 {
            self.meeting.sum.lock().unwrap().take();
        }
    }
}

impl Collective for Thread<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        self.meet(tensor, true);
        Ok(())
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        self.meet(tensor, self.rank == root);
        Ok(())
    }
}

/// Images of two regions each, whose features are computed from their indices.
struct MadeUp;

impl RegionSource for MadeUp {
    fn name(&self) -> String {
        "made up".to_owned()
    }

    fn n_images(&self) -> usize {
        1000
    }

    fn feature_dim(&self) -> usize {
        3
    }

    fn row(&self, image_id: u64) -> Option<usize> {
        (image_id < 1000).then_some(image_id as usize)
    }

    fn n_regions(&self, _: usize) -> usize {
        2
    }

    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> vqa_data::Result<()> {
        (0..).zip(features).for_each(|(i, feature)| *feature = ((row * 7 + i * 3) % 11) as f32 / 11.0);
        boxes.fill(0.0);
        Ok(())
    }
}

/// A linear layer over the mean word vector and the mean region.
struct OwnModel {
    words: nn::Embedding,
    layer: nn::Linear,
}

impl VqaModel for OwnModel {
    fn forward(&self, input: &ModelInput, _: bool) -> ModelOutput {
        let regions = input.features.mean_dim([1].as_slice(), false, Kind::Float).index_select(0, &input.image_rows);
        let words = self.words.forward(&input.tokens).mean_dim([1].as_slice(), false, Kind::Float);
        let logits = self.layer.forward(&Tensor::cat(&[regions, words], 1));
        let attention = Tensor::full([input.tokens.size()[0], 2], 0.5, (Kind::Float, Device::Cpu));
        ModelOutput { logits, attention }
    }
}

/// Trains a model, and returns the losses of the steps.
fn train(dataset: &Arc<Dataset>, sampler: Sampler, collective: &dyn Collective, run: &Path) -> Vec<f64> {
    // Each thread has different initial weights; training must begin with those of the first in all of them.
    let vs = VarStore::new(Device::Cpu);
    let dims = DataDims::of(dataset);
    let model = OwnModel {
        words: nn::embedding(vs.root() / "words", dims.n_words + 1, 4, nn::EmbeddingConfig::default()),
        layer: nn::linear(vs.root() / "layer", 3 + 4, dims.n_answers, nn::LinearConfig::default()),
    };
    tch::no_grad(|| {
        let value = 0.01 * (1 + collective.rank()) as f64;
        vs.variables().into_values().for_each(|mut variable| drop(variable.fill_(value)));
    });
    let config = TrainConfig { n_epochs: 2, batch_size: 23, ..TrainConfig::default() };
    let options = LoaderOptions { batch_size: 23, sampler, ..LoaderOptions::default() };
    let loader = Loader::new(dataset.clone(), options);
    let mut losses = Vec::new();
    Trainer { collective, val: Some(&loader), ..Trainer::new(&model, &vs, &config, &loader, &RunDir::new(run)) }
        .run(&mut |event| match event {
            Event::Step { metrics, .. } => losses.push(metrics.loss),
            Event::Epoch(epoch) => losses.push(epoch.val_loss.unwrap()),
            _ => {}
        })
        .unwrap();
    losses
}

#[test]
fn processes_train_a_model_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    write_shapes(dir.path(), ShapesSpec { n_train: 24, n_val: 2, seed: 3 }, &|_| {}).unwrap();
    let ShapesSplit { questions, annotations, .. } = ShapesSplit::files(dir.path(), "train");
    let source = SourceConfig { q_jsons: vec![questions], a_jsons: vec![annotations], features: None, images: None };
    let split = Split::load(&SplitConfig::from(vec![source])).unwrap();
    let (words, answers) = build_dictionaries([&split], &DictConfig { min_answer_count: 1, ..DictConfig::default() });
    let dataset = Arc::new(Dataset::new(split, &words, &answers, 14, vec![Arc::new(MadeUp)]).unwrap());
    for sampler in [Sampler::Random, Sampler::Grouped] {
        let alone = train(&dataset, sampler, &SingleProcess, &dir.path().join(format!("{sampler:?}")));
        assert!(alone.len() > 10 && alone[alone.len() - 1] < alone[0]);
        for world_size in [2, 3] {
            let meeting = Meeting { barrier: Barrier::new(world_size), sum: Mutex::new(None) };
            let run = dir.path().join(format!("{sampler:?}{world_size}"));
            let of_all: Vec<Vec<f64>> = std::thread::scope(|scope| {
                let start = |rank| {
                    let (dataset, meeting, run) = (&dataset, &meeting, &run);
                    scope.spawn(move || train(dataset, sampler, &Thread { rank, world_size, meeting }, run))
                };
                let threads: Vec<_> = (0..world_size).map(start).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for losses in &of_all {
                assert_eq!(losses.len(), alone.len());
                let off = losses.iter().zip(&alone).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
                assert!(off < 1e-5, "{sampler:?}, {world_size} processes: {off}");
            }
            assert!(run.join("model_2.safetensors").exists());
        }
    }
}
