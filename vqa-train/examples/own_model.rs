//! Trains a model of one's own: a bag of words and the mean of all regions, on the shapes world.
//!
//!     cargo run --release -p vqa-train --example own_model

use std::sync::{Arc, atomic::AtomicBool};

use tch::{Device, Kind, nn, nn::Module};
use vqa_data::*;
use vqa_model::{LossKind, ModelInput, ModelOutput, VqaModel};
use vqa_train::{Event, RunDir, TrainConfig, Trainer};

struct Bag {
    words: nn::Embedding,
    regions: nn::Linear,
    answers: nn::Linear,
}

impl VqaModel for Bag {
    fn forward(&self, input: &ModelInput, _train: bool) -> ModelOutput {
        let question = self.words.forward(&input.tokens).sum_dim_intlist(1, false, Kind::Float); // [B, 128]
        let regions = self.regions.forward(&input.features).relu(); // [N, K, 128]
        let attention = regions.mean_dim(2, false, Kind::Float).index_select(0, &input.image_rows).ones_like();
        let picture = regions.mean_dim(1, false, Kind::Float).index_select(0, &input.image_rows); // [B, 128]
        let k = attention.size()[1] as f64;
        ModelOutput { logits: self.answers.forward(&(question * picture)), attention: attention / k }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("vqa-own-model-{}", std::process::id()));
    write_shapes(&dir, ShapesSpec { n_train: 600, n_val: 100, seed: 1 }, &|_| {})?;
    let files = ShapesSplit::files(&dir, "train");
    let pictures = list_pictures(&files.images)?;
    let stats = ChannelStats::measure(&pictures, &|_| {})?;
    let features = dir.join("train.h5");
    let grid = Grid { rows: 4, columns: 5, whole: true, patch: 8 };
    Extraction { grid, stats, element_type: ElementType::F32, shard: None }.write(&pictures, &features, &|_| {})?;

    let (q_jsons, a_jsons) = (vec![files.questions], vec![files.annotations]);
    let source = SourceConfig { q_jsons, a_jsons, features: Some(features), images: None };
    let config = SplitConfig::from(vec![source]);
    let split = Split::load(&config)?;
    let (words, answers) = build_dictionaries([&split], &DictConfig::default());
    let dataset = Arc::new(Dataset::open(split, &config, &words, &answers, 14)?);
    let train = Loader::new(dataset, LoaderOptions { batch_size: 64, ..LoaderOptions::default() });

    let vs = nn::VarStore::new(Device::Cpu);
    let model = Bag {
        words: nn::embedding(vs.root() / "words", words.len() as i64 + 1, 128, Default::default()),
        regions: nn::linear(vs.root() / "regions", grid.feature_dim() as i64, 128, Default::default()),
        answers: nn::linear(vs.root() / "answers", 128, answers.len() as i64, Default::default()),
    };
    let (config, run, stop) =
        (TrainConfig { n_epochs: 5, ..TrainConfig::default() }, RunDir::new(dir.join("run")), AtomicBool::new(false));
    let trainer = Trainer {
        model: &model,
        vs: &vs,
        loss: LossKind::Logistic,
        config: &config,
        seed: 1,
        train: &train,
        val: None,
        run: &run,
        header: Default::default(),
        stop: &stop,
    };
    trainer.run(&mut |event| {
        if let Event::Epoch(epoch) = event {
            println!("epoch {} loss {:.2} score {:.1}", epoch.epoch, epoch.train_loss, epoch.train_score);
        }
    })?;
    Ok(std::fs::remove_dir_all(&dir)?)
}
