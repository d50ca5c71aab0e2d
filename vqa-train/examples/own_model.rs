//! Trains a model of one's own, a bag of words and the mean of all regions, on what `make demo` made.
//!
//!     cargo run --release -p vqa-train --example own_model -- demo/train.h5 demo/data/v2_*train_questions.json demo/data/v2_*train_annotations.json

use std::sync::Arc;

use tch::{Device, Kind, nn, nn::Module};
use vqa_data::batches::{Dataset, Loader, LoaderOptions};
use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};
use vqa_model::run::RunDir;
use vqa_model::{ModelInput, ModelOutput, VqaModel};
use vqa_train::{Event, TrainConfig, Trainer};

struct Bag {
    words: nn::Embedding,
    regions: nn::Linear,
    answers: nn::Linear,
}

impl VqaModel for Bag {
    fn forward(&self, input: &ModelInput, _train: bool) -> ModelOutput {
        let question = self.words.forward(&input.tokens).sum_dim_intlist(1, false, Kind::Float); // [B, 128]
        let regions = self.regions.forward(&input.features).relu().index_select(0, &input.image_rows); // [B, K, 128]
        let logits = self.answers.forward(&(question * regions.mean_dim(1, false, Kind::Float)));
        let alike = regions.select(2, 0).ones_like() / regions.size()[1] as f64; // [B, K]
        ModelOutput { logits, attention: alike }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [features, questions, annotations] = [1, 2, 3].map(|i| std::env::args_os().nth(i).expect("three files").into());
    let source =
        SourceConfig { q_jsons: vec![questions], a_jsons: vec![annotations], features: Some(features), images: None };
    let config = SplitConfig::from(vec![source]);
    let split = Split::load(&config)?;
    let (words, answers) = build_dictionaries([&split], &DictConfig::default());
    let dataset = Arc::new(Dataset::open(split, &config, &words, &answers, 14)?);
    let feature_dim = dataset.feature_dim() as i64;
    let train = Loader::new(dataset, LoaderOptions { batch_size: 64, ..LoaderOptions::default() });

    let vs = nn::VarStore::new(Device::Cpu);
    let model = Bag {
        words: nn::embedding(vs.root() / "words", words.len() as i64 + 1, 128, Default::default()),
        regions: nn::linear(vs.root() / "regions", feature_dim, 128, Default::default()),
        answers: nn::linear(vs.root() / "answers", 128, answers.len() as i64, Default::default()),
    };
    let (config, run) = (TrainConfig { n_epochs: 5, ..TrainConfig::default() }, RunDir::new("runs/own_model"));
    Trainer::new(&model, &vs, &config, &train, &run).run(&mut |event| {
        if let Event::Epoch(epoch) = event {
            println!("epoch {} loss {:.2} score {:.1}", epoch.epoch, epoch.train_loss, epoch.train_score);
        }
    })?;
    Ok(())
}
