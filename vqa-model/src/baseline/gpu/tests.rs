//! Tests of the step on a GPU, with its kernels emulated on a CPU, against the passes on a CPU, which draw the same
//! masks.

use std::collections::HashMap;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::baseline::config::{
    AttentionConfig, AttentionKind, ClassifierConfig, LanguageModelConfig, ModelConfig, RnnKind,
};
use crate::baseline::cpu::{self, tests::generator};
use crate::baseline::gpu::kernels::Kernels;
use crate::baseline::gpu::passes::{serves, serves_model, train};
use crate::baseline::layers::Baseline;
use crate::feed::order::{BatchOrder, BatchQuestions, SharedStates};
use crate::model::{DataDims, DropoutSeed, ModelInput, TrainingPass, VqaModel};

const DIMS: DataDims = DataDims { n_words: 9, n_answers: 11, feature_dim: 40 };
const B: i64 = 70;
const T: i64 = 6;
const N: i64 = 7;
const K: i64 = 5;
const SEED: u64 = 77;

fn model(config: &ModelConfig, seed: i64) -> (VarStore, Baseline) {
    tch::manual_seed(seed);
    let vs = VarStore::new(Device::Cpu);
    let model = Baseline::new(vs.root(), config, DIMS);
    // Biases that are 0 and norms that are 1 would hide mistakes.
    let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, mut parameter) in variables {
        if name.ends_with("weight_g") || name.contains("bias") {
            let _ = tch::no_grad(|| parameter.g_add_(&(Tensor::rand_like(&parameter) * 0.7)));
        }
        // The step expects the gradients to exist.
        (&parameter * 0.0).sum(Kind::Float).backward();
    }
    (vs, model)
}

/// Questions with words that occur more often than a single row may be read, some of only padding; images with fewer
/// regions than others, and one that no question is about.
fn input(kind: Kind, shared: SharedStates) -> ModelInput {
    let options = (Kind::Int64, Device::Cpu);
    let words = Tensor::randint(3, [B, T], options);
    let is_padding = Tensor::arange(T, options).unsqueeze(0).lt_tensor(&Tensor::randint(T + 1, [B, 1], options));
    let tokens = words.masked_fill(&is_padding, DIMS.n_words);
    let image_rows = Tensor::randint(N - 1, [B], options);
    let counts = Tensor::from_slice(&[5i64, 3, 5, 1, 5, 4, 5]).unsqueeze(1);
    let numbers = |tensor: &Tensor| Vec::<i64>::try_from(tensor.contiguous().view([-1])).unwrap();
    let (of_tokens, of_images) = (numbers(&tokens), numbers(&image_rows));
    let batch = BatchQuestions {
        tokens: &of_tokens,
        max_len: T as usize,
        padding: DIMS.n_words,
        image_rows: &of_images,
        n_images: N as usize,
    };
    // With padding: states that belong to no question.
    let (order, steps) = BatchOrder::numbers(batch, shared, &mut |_, n| n + 3);
    ModelInput {
        order: Some(BatchOrder::new(&Tensor::from_slice(&order), &steps, B, N)),
        tokens,
        features: Tensor::rand([N, K, DIMS.feature_dim], (Kind::Float, Device::Cpu)).to_kind(kind),
        boxes: Tensor::zeros([N, K, 4], (Kind::Float, Device::Cpu)),
        image_rows,
        padding: Some(Tensor::arange(K, options).unsqueeze(0).ge_tensor(&counts)),
        dropout: None,
    }
}

/// A dictionary of one answer makes a classifier whose weights look like those of attention's last layer.
#[test]
fn a_single_answer_is_left_to_libtorch() {
    let config = ModelConfig::default();
    let serves = |n_answers| {
        serves_model(&Baseline::new(VarStore::new(Device::Cpu).root(), &config, DataDims { n_answers, ..DIMS }))
    };
    assert_eq!([1, 2].map(serves), [false, true]);
}

/// Logits, attention and all gradients.
fn results(vs: &VarStore, pass: TrainingPass, grad_logits: &Tensor) -> HashMap<String, Tensor> {
    let output = &pass.output;
    let mut results =
        HashMap::from([("logits".to_owned(), output.logits.copy()), ("attention".to_owned(), output.attention.copy())]);
    pass.backward(grad_logits);
    for (name, mut parameter) in vs.variables() {
        // Softmax is invariant to adding the same value to all scores: this gradient is 0 except for rounding.
        if name != "v_att.linear.bias" {
            results.insert(name, parameter.grad().copy());
        }
        parameter.zero_grad();
    }
    results
}

/// For each result, its distance from the CPU's in float32, relative to the latter's norm.
fn errors(config: &ModelConfig, kernels: &Kernels, seed: i64) -> HashMap<String, f64> {
    let (vs, model) = model(config, seed);
    let input = input(Kind::BFloat16, model.shared_states().unwrap());
    let grad_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
    assert!(serves(&model, &input));
    let found = train(&model, kernels, &input, Tensor::from_slice(&[SEED as i64]));
    let found = results(&vs, found, &grad_logits);
    let input = ModelInput { features: input.features.to_kind(Kind::Float), ..input };
    let exact = cpu::train(&model, &input, DropoutSeed { seed: SEED, first: 0 });
    let exact = results(&vs, exact, &grad_logits);
    let error = |name: &String| {
        // The gradient of a layer's g is a single value, a sum over the gradient of v.
        let size = match name.strip_suffix("weight_g") {
            Some(layer) => exact[&format!("{layer}weight_v")].norm(),
            None => exact[name].norm(),
        };
        ((&found[name] - &exact[name]).norm() / size).double_value(&[])
    };
    exact.keys().map(|name| (name.clone(), error(name))).collect()
}

#[test]
fn the_step_is_that_of_a_cpu() {
    let _generator = generator();
    let article = ModelConfig {
        hid_dim: 24,
        lm: LanguageModelConfig { word_emb_dim: 7, ..LanguageModelConfig::default() },
        topdown_att: AttentionConfig { kind: AttentionKind::Product, hid_dim: 64, dropout: 0.2 },
        mlp: ClassifierConfig { hid_dim: 32, dropout: 0.5 },
        ..ModelConfig::default()
    };
    let with = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = article.clone();
        change(&mut config);
        config
    };
    let configs = [
        article.clone(),
        with(&|config| config.lm.rnn_type = RnnKind::Lstm),
        with(&|config| config.topdown_att.kind = AttentionKind::Concat),
        with(&|config| (config.topdown_att.dropout, config.mlp.dropout) = (0.0, 0.0)),
        with(&|config| config.lm.n_layers = 2),
        with(&|config| (config.lm.bidirectional, config.lm.n_layers) = (true, 2)),
        with(&|config| {
            (config.lm.rnn_type, config.lm.bidirectional, config.lm.n_layers) = (RnnKind::Lstm, true, 2);
        }),
    ];
    let kernels = Kernels::emulated();
    for config in configs {
        for seed in 0..3 {
            // Rounding costs a few hundredths, and more if many inputs of ReLUs are so close to 0 that they are rounded
            // to the other side; a mistake costs far more.
            for (name, error) in errors(&config, &kernels, seed) {
                let most = if name == "logits" || name == "attention" { 0.01 } else { 0.15 };
                assert!(error < most, "{config:?}: {name} is off by {error}");
            }
        }
    }
}
