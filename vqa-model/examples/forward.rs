//! One forward pass of the article's model at VQA2.0's sizes, with random weights and regions.
//!
//!     cargo run --release -p vqa-model --example forward

use std::time::Instant;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::{DataDims, ModelInput, VqaModel};

fn main() {
    let vs = VarStore::new(Device::Cpu);
    let dims = DataDims { n_words: 19_901, n_answers: 3129, feature_dim: 2048 };
    let model = Baseline::new(vs.root(), &ModelConfig::default(), dims);

    // Eight questions of 14 tokens about two images of 36 regions.
    let input = ModelInput {
        tokens: Tensor::randint(dims.n_words, [8, 14], (Kind::Int64, Device::Cpu)),
        features: Tensor::randn([2, 36, dims.feature_dim], (Kind::Float, Device::Cpu)),
        boxes: Tensor::zeros([2, 36, 4], (Kind::Float, Device::Cpu)),
        image_rows: Tensor::from_slice(&[0i64, 0, 0, 0, 1, 1, 1, 1]),
        padding: None,
        dropout: None,
        order: None,
    };
    let started = Instant::now();
    let output = tch::no_grad(|| model.forward(&input, false));
    println!("{:.1} M parameters", vs.trainable_variables().iter().map(Tensor::numel).sum::<usize>() as f64 / 1e6);
    println!("logits {:?}, attention {:?}", output.logits.size(), output.attention.size());
    println!("best answers {:?} in {:?}", Vec::<i64>::try_from(output.logits.argmax(1, false)), started.elapsed());
}
