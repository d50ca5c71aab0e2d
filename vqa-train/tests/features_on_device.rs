//! Training with all features on the device gives the same values, bit for bit, as copying them batch by batch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tch::Device;
use tch::nn::VarStore;
use vqa_data::batches::{Dataset, Loader, LoaderOptions, Sampler};
use vqa_data::features::{
    ChannelStats, ElementType, Extraction, FeatureFile, Grid, PixelGrid, RegionSource, list_images,
};
use vqa_data::files::IfExists;
use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};
use vqa_data::shapes::{ShapesSpec, ShapesSplit, write_shapes};
use vqa_model::DataDims;
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::feed::{FeaturesOnDevice, Precision};
use vqa_model::loss::LossKind;
use vqa_model::run::RunDir;
use vqa_train::distributed::SingleProcess;
use vqa_train::{Event, TrainConfig, Trainer};

/// A file's images, but the first has no region, the second only its first one, the third its first two, and so on.
struct Adaptive(FeatureFile);

impl RegionSource for Adaptive {
    fn name(&self) -> String {
        self.0.name()
    }

    fn n_images(&self) -> usize {
        self.0.n_images()
    }

    fn feature_dim(&self) -> usize {
        self.0.feature_dim()
    }

    fn row(&self, image_id: u64) -> Option<usize> {
        self.0.row(image_id)
    }

    fn n_regions(&self, row: usize) -> usize {
        row % (1 + self.0.n_regions(row))
    }

    fn element_type(&self) -> ElementType {
        self.0.element_type()
    }

    fn read(&self, row: usize, features: &mut [f32], boxes: &mut [f32]) -> vqa_data::Result<()> {
        let k = self.0.n_regions(row);
        let (mut all_features, mut all_boxes) = (vec![0.0; k * self.feature_dim()], vec![0.0; k * 4]);
        self.0.read(row, &mut all_features, &mut all_boxes)?;
        features.copy_from_slice(&all_features[..features.len()]);
        boxes.copy_from_slice(&all_boxes[..boxes.len()]);
        Ok(())
    }
}

/// The training and validation splits of a small shapes world, as two sources of one split.
fn dataset(dir: &Path, element_type: ElementType) -> (Arc<Dataset>, DataDims) {
    let data = dir.join("data");
    write_shapes(&data, ShapesSpec { n_train: 24, n_val: 12, seed: 3 }, &|_| {}).unwrap();
    let files = ["train", "val"].map(|name| ShapesSplit::files(&data, name));
    let stats = ChannelStats::measure(&list_images(&files[0].images).unwrap(), &|_| {}).unwrap();
    let grid = Grid { rows: 2, columns: 2, whole: true, patch: 2 };
    let extractor = &PixelGrid { grid, stats };
    let extraction = Extraction { extractor, element_type, shard: None, batch_size: None };
    let sources: Vec<Arc<dyn RegionSource>> = files
        .iter()
        .zip(["train.h5", "val.h5"])
        .map(|(files, name)| {
            let path = dir.join(name);
            extraction.write(&list_images(&files.images).unwrap(), &path, IfExists::Refuse, &|_| {}).unwrap();
            Arc::new(Adaptive(FeatureFile::open(path).unwrap())) as Arc<dyn RegionSource>
        })
        .collect();
    let source = |files: ShapesSplit| {
        let (q_jsons, a_jsons) = (vec![files.questions], vec![files.annotations]);
        SourceConfig { q_jsons, a_jsons, features: None, images: None }
    };
    let split = Split::load(&SplitConfig::from(files.map(source).to_vec())).unwrap();
    let (words, answers) = build_dictionaries([&split], &DictConfig { min_answer_count: 1, ..DictConfig::default() });
    let dataset = Dataset::new(split, &words, &answers, 14, sources).unwrap();
    let dims = DataDims {
        n_words: words.len() as i64,
        n_answers: answers.len() as i64,
        feature_dim: dataset.feature_dim() as i64,
    };
    (Arc::new(dataset), dims)
}

/// Returns the losses and scores of two epochs, the last checkpoint, and how often all features were copied to the
/// device.
fn train(dataset: &Arc<Dataset>, dims: DataDims, config: &TrainConfig, run: &Path) -> (Vec<u64>, Vec<u8>, usize) {
    let model: ModelConfig = serde_json::from_str(
        r#"{"hid_dim": 8, "lm": {"word_emb_dim": 4}, "topdown_att": {"hid_dim": 8}, "mlp": {"hid_dim": 8}}"#,
    )
    .unwrap();
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let model = Baseline::new(vs.root(), &model, dims);
    let loader = |sampler| {
        let options = LoaderOptions { batch_size: 16, sampler, seed: 5, ..LoaderOptions::default() };
        Loader::new(dataset.clone(), options)
    };
    let trainer = Trainer {
        model: &model,
        vs: &vs,
        loss: LossKind::Logistic,
        config,
        seed: 5,
        train: &loader(config.sampler),
        val: Some(&loader(Sampler::Sequential)),
        run: &RunDir::new(run),
        stop: &AtomicBool::new(false),
        collective: &SingleProcess,
    };
    let (mut figures, mut n_put) = (Vec::new(), 0);
    trainer
        .run(&mut |event| match event {
            Event::Features { n, of } => {
                assert!(n <= of && of == dataset.n_images());
                n_put += usize::from(n == of);
            }
            Event::Step { metrics, .. } => figures.extend([metrics.loss.to_bits(), metrics.score.to_bits()]),
            Event::Epoch(metrics) => {
                figures.extend([metrics.val_loss, metrics.val_score].map(|figure| figure.unwrap().to_bits()));
            }
            Event::Validation { .. } => {}
        })
        .unwrap();
    (figures, std::fs::read(run.join("model_2.safetensors")).unwrap(), n_put)
}

/// A single test, since dropout draws from the only generator of the process.
#[test]
fn the_same_numbers_wherever_the_features_are() {
    for element_type in [ElementType::F32, ElementType::F16] {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, dims) = dataset(dir.path(), element_type);
        assert_eq!(dataset.element_type(), element_type);
        for (precision, sampler, accumulate) in [
            (Precision::Fp32, Sampler::Random, 1),
            (Precision::Tf32, Sampler::Grouped, 1),
            (Precision::Bf16, Sampler::Random, 3),
            // Of one question each, some about an image without regions.
            (Precision::Fp32, Sampler::Random, 16),
        ] {
            let trained = |features_on_device| {
                let run = dir.path().join(format!("{precision:?} {accumulate} {features_on_device:?}"));
                let config = TrainConfig {
                    n_epochs: 2,
                    batch_size: 16,
                    precision,
                    sampler,
                    accumulate,
                    features_on_device,
                    ..TrainConfig::default()
                };
                train(&dataset, dims, &config, &run)
            };
            let (expected, checkpoint, n_put) = trained(FeaturesOnDevice::Auto);
            assert!(n_put == 0 && expected.len() > 20);
            let (found, same_checkpoint, n_put) = trained(FeaturesOnDevice::Always);
            assert_eq!(n_put, 2, "those of training and of validation");
            assert_eq!(found, expected);
            assert!(same_checkpoint == checkpoint);
        }
    }
}
