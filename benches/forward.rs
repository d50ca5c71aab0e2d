//! Measures the article's model at VQA2.0's sizes: a forward pass, and a full training step.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::loss::LossKind;
use vqa_model::loss::{bce_with_logits, loss_and_gradient};
use vqa_model::{DataDims, ModelInput, VqaModel};
use vqa_train::TrainConfig;
use vqa_train::optim::Optimizer;

const BATCH: i64 = 64;

fn forward(c: &mut Criterion) {
    let vs = VarStore::new(Device::Cpu);
    let dims = DataDims { n_words: 19_901, n_answers: 3129, feature_dim: 2048 };
    let model = Baseline::new(vs.root(), &ModelConfig::default(), dims);
    let input = ModelInput {
        tokens: Tensor::randint(dims.n_words, [BATCH, 14], (Kind::Int64, Device::Cpu)),
        features: Tensor::randn([BATCH, 36, dims.feature_dim], (Kind::Float, Device::Cpu)),
        boxes: Tensor::zeros([BATCH, 36, 4], (Kind::Float, Device::Cpu)),
        image_rows: Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)),
        padding: None,
        dropout: None,
        order: None,
    };
    let targets = Tensor::rand([BATCH, dims.n_answers], (Kind::Float, Device::Cpu)).gt(0.999).to_kind(Kind::Float);
    let mut optimizer = Optimizer::new(vs.variables(), &TrainConfig::default());

    let mut group = c.benchmark_group("model");
    group.sample_size(10);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("forward", |b| b.iter(|| model.infer(&input)));
    group.bench_function("forward, layer by layer", |b| b.iter(|| tch::no_grad(|| model.forward(&input, false))));
    group.bench_function("training step", |b| {
        b.iter(|| {
            let pass = model.train(&input);
            let (_, of_logits) = loss_and_gradient(LossKind::Logistic, &pass.output.logits, &targets);
            pass.backward(&of_logits);
            optimizer.apply();
        });
    });
    group.bench_function("training step, layer by layer", |b| {
        b.iter(|| optimizer.step(&bce_with_logits(&model.forward(&input, true).logits, &targets)));
    });
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
