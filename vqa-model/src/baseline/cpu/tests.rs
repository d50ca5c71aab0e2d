//! The written-out passes against the layers one by one, differentiated by libtorch.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_data::random::split_mix_64;

use crate::baseline::config::{AttentionConfig, ClassifierConfig, LanguageModelConfig, ModelConfig};
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::passes::{encode_images, infer, infer_encoded, serves, train};
use crate::baseline::layers::Baseline;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::model::{DataDims, DropoutSeed, ModelInput, ModelOutput, VqaModel};

const DIMS: DataDims = DataDims { n_words: 9, n_answers: 11, feature_dim: 37 };
const B: i64 = 40;
const SEED: u64 = 77;

/// libtorch has one random number generator for all tests.
fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model whose widths are all different, and no multiples of the kernels' lanes.
fn model(dropout: [f64; 2]) -> (VarStore, Baseline) {
    tch::manual_seed(3);
    let vs = VarStore::new(Device::Cpu);
    let config = ModelConfig {
        hid_dim: 23,
        lm: LanguageModelConfig { word_emb_dim: 7, ..LanguageModelConfig::default() },
        topdown_att: AttentionConfig { hid_dim: 41, dropout: dropout[0], ..AttentionConfig::default() },
        mlp: ClassifierConfig { hid_dim: 50, dropout: dropout[1] },
        ..ModelConfig::default()
    };
    let model = Baseline::new(vs.root(), &config, DIMS);
    // Biases that are 0 and norms that are 1 would hide mistakes.
    let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    tch::no_grad(|| {
        for (name, mut parameter) in variables {
            if name.ends_with("weight_g") || name.contains("bias") {
                let _ = parameter.g_add_(&(Tensor::rand_like(&parameter) * 0.7));
            }
        }
    });
    (vs, model)
}

/// Questions that start alike, are the same, or are only padding, about fewer images than questions. Some
/// images have fewer regions than others, and one has no question about it.
fn input(kind: Kind) -> ModelInput {
    tch::manual_seed(4);
    let options = (Kind::Int64, Device::Cpu);
    let words = Tensor::randint(3, [B, 6], options);
    let is_padding = Tensor::arange(6, options).unsqueeze(0).lt_tensor(&Tensor::randint(7, [B, 1], options));
    let counts = Tensor::from_slice(&[5i64, 3, 5, 1, 5, 4, 5]).unsqueeze(1);
    let padding = Tensor::arange(5, options).unsqueeze(0).ge_tensor(&counts);
    ModelInput {
        tokens: words.masked_fill(&is_padding, DIMS.n_words),
        features: Tensor::rand([7, 5, DIMS.feature_dim], (Kind::Float, Device::Cpu)).to_kind(kind),
        boxes: Tensor::zeros([7, 5, 4], (Kind::Float, Device::Cpu)),
        image_rows: Tensor::randint(6, [B], options),
        padding: Some(padding),
        dropout: None,
    }
}

/// Masks as a factor for each entry, [rows, columns]: 0 for what is dropped, the scale for what is kept.
fn dense(masks: &DropoutMasks, rows: i64, columns: i64) -> Tensor {
    let factors: Vec<f32> = (0..rows as usize)
        .flat_map(|row| (0..columns as usize).map(move |i| (row, i)))
        .map(|(row, i)| if masks.row(row)[i / 16] >> (i % 16) & 1 != 0 { masks.scale } else { 0.0 })
        .collect();
    Tensor::from_slice(&factors).view([rows, columns])
}

/// [`Baseline::forward`] in training, line by line, with these masks instead of libtorch's dropout.
fn plain(model: &Baseline, input: &ModelInput, masks: [&Tensor; 2]) -> ModelOutput {
    let TopdownAttention::Product(att) = &model.v_att else { unreachable!() };
    let kind = input.features.kind();
    let question = model.q_emb.forward(&model.w_emb.forward(&input.tokens).to_kind(kind), true);
    let regions = input.features.index_select(0, &input.image_rows); // [B, K, D]
    let product = att.v_proj.forward(&regions) * att.q_proj.forward(&question).unsqueeze(1);
    let scores = att.linear.forward(&(product * masks[0].to_kind(kind))).squeeze_dim(2);
    let attention = input.attention(&scores.to_kind(Kind::Float));
    let attended = (attention.unsqueeze(2) * regions).sum_dim_intlist(1, false, Kind::Float).to_kind(kind);
    let joint = model.q_net.forward(&question) * model.v_net.forward(&attended);
    let hidden = model.classifier.hidden.forward(&joint).relu() * masks[1].to_kind(kind);
    ModelOutput { logits: model.classifier.output.forward(&hidden).to_kind(Kind::Float), attention }
}

/// Gradients by the names of their parameters, and other results.
type Results = HashMap<String, Tensor>;

/// Takes the gradients out of the parameters.
fn take_grads(vs: &VarStore) -> Results {
    let taken = vs.variables().into_iter().map(|(name, parameter)| (name, parameter.grad().copy())).collect();
    vs.variables().into_values().for_each(|mut parameter| parameter.zero_grad());
    taken
}

/// What rounding errors of a tensor are relative to: its largest value. The gradient of a layer's g is a single
/// value, a sum over the gradient of v; there it is the norm of what is summed.
fn scale(all: &Results, name: &str) -> f64 {
    match name.strip_suffix("weight_g") {
        Some(layer) => all[&format!("{layer}weight_v")].norm().double_value(&[]),
        None => all[name].abs().max().double_value(&[]),
    }
}

/// The largest difference, as a share of a scale.
fn off(a: &Tensor, b: &Tensor, scale: f64) -> f64 {
    (a - b).abs().max().double_value(&[]) / scale
}

/// Logits, attention and gradients of the written-out passes, of the plain layers with the same masks, and of
/// the plain layers in float32.
fn three_ways(dropout: [f64; 2], kind: Kind, seed: u64) -> [Results; 3] {
    let seed = DropoutSeed { seed, first: 0 };
    let _generator = generator();
    let (vs, model) = model(dropout);
    let input = input(kind);
    assert!(serves(&model, &input));
    let grad_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
    let results = |output: [Tensor; 2]| -> Results {
        let [logits, attention] = output;
        let mut results = take_grads(&vs);
        assert_eq!(results.len(), 26);
        // Adding the same to all scores changes no softmax: this gradient is 0 but for rounding.
        results.remove("v_att.linear.bias");
        results.extend([("logits".to_owned(), logits), ("attention".to_owned(), attention)]);
        results
    };

    let pass = train(&model, &input, seed);
    let output = [pass.output.logits.copy(), pass.output.attention.copy()];
    pass.backward(&grad_logits);
    let fused = results(output);

    let masks = |rows_per_question: i64, columns: i64, seed: DropoutSeed, p: f64| match p {
        0.0 => Tensor::ones([B * rows_per_question, columns], (Kind::Float, Device::Cpu)),
        p => {
            let rows = B * rows_per_question;
            let masks = DropoutMasks::draw(seed, rows as usize, rows_per_question as usize, columns as usize, p);
            dense(&masks, rows, columns)
        }
    };
    let product_masks = masks(5, 41, seed, dropout[0]).view([B, 5, 41]);
    let hidden_masks = masks(1, 50, DropoutSeed { seed: split_mix_64(!seed.seed), first: 0 }, dropout[1]);
    let plainly = |input: &ModelInput| {
        let ModelOutput { logits, attention } = plain(&model, input, [&product_masks, &hidden_masks]);
        (&logits * &grad_logits).sum(Kind::Float).backward();
        results([logits.detach(), attention.detach()])
    };
    let same = plainly(&input);
    let exact = plainly(&ModelInput { features: input.features.to_kind(Kind::Float), ..input });
    [fused, same, exact]
}

#[test]
fn training_is_the_plain_way_with_the_same_masks() {
    for dropout in [[0.2, 0.5], [0.0, 0.5], [0.2, 0.0], [0.0, 0.0]] {
        let [fused, plain, _] = three_ways(dropout, Kind::Float, SEED);
        for (name, expected) in &plain {
            let off = off(&fused[name], expected, scale(&plain, name));
            assert!(off < 2e-5, "{name} is off by {off} with dropout {dropout:?}");
        }
    }
}

/// bfloat16's 8 bits cost about the precision that they cost in the plain layers. A number near 0 that a ReLU lets through in one way
/// and not in another is luck, which is the same for both over many masks.
#[test]
fn bf16_is_as_precise_as_the_plain_way() {
    let mut squares: HashMap<String, [f64; 3]> = HashMap::new();
    for seed in 0..16 {
        let [fused, plain, exact] = three_ways([0.2, 0.5], Kind::BFloat16, seed);
        for (name, exact) in &exact {
            let scale = scale(&plain, name) * (exact.numel() as f64).sqrt();
            let square = |found: &Tensor| ((found - exact).norm().double_value(&[]) / scale).powi(2);
            let of_seed = [square(&fused[name]), square(&plain[name]), 1.0];
            squares.entry(name.clone()).or_default().iter_mut().zip(of_seed).for_each(|(sum, square)| *sum += square);
        }
    }
    for (name, [found, allowed, n]) in squares {
        let [found, allowed] = [found, allowed].map(|sum| (sum / n).sqrt());
        assert!(found < 2.0 * allowed.max(0.01), "{name} is off by {found}, the plain layers by {allowed}");
    }
}

#[test]
fn gradients_add_up() {
    let _generator = generator();
    let (vs, model) = model([0.2, 0.5]);
    let input = input(Kind::Float);
    let grad_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
    train(&model, &input, DropoutSeed { seed: SEED, first: 0 }).backward(&grad_logits);
    let once = take_grads(&vs);
    train(&model, &input, DropoutSeed { seed: SEED, first: 0 }).backward(&grad_logits);
    train(&model, &input, DropoutSeed { seed: SEED, first: 0 }).backward(&grad_logits);
    for (name, twice) in take_grads(&vs) {
        assert!(off(&(twice / 2.0), &once[&name], scale(&once, &name)) < 1e-6, "{name}");
    }
}

#[test]
fn inference_is_the_plain_way() {
    let _generator = generator();
    let (_vs, model) = model([0.2, 0.5]);
    let input = input(Kind::Float);
    let (found, expected) = (model.infer(&input), model.forward(&input, false));
    for (found, expected) in [(&found.logits, &expected.logits), (&found.attention, &expected.attention)] {
        assert!(off(found, expected, expected.abs().max().double_value(&[])) < 1e-5);
        assert!(!found.requires_grad() && expected.requires_grad());
    }
}

/// The same seed of libtorch's gives the same dropout, and each step gets another.
#[test]
fn libtorchs_seed_decides() {
    let _generator = generator();
    let (_vs, model) = model([0.2, 0.5]);
    let input = input(Kind::Float);
    let logits = || VqaModel::train(&model, &input).output.logits;
    tch::manual_seed(8);
    let (first, second) = (logits(), logits());
    tch::manual_seed(8);
    assert_eq!(logits(), first);
    assert_ne!(first, second);
}

/// What is computed of images beforehand, of each by itself, changes nothing but the last digits.
#[test]
fn images_can_be_encoded_beforehand() {
    for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 0.0)] {
        let (_vs, model) = model([0.2, 0.5]);
        let input = input(kind);
        let at_once = infer(&model, &input);
        let encoded: Vec<Tensor> =
            (0..7).map(|image| encode_images(&model, &input.features.narrow(0, image, 1))).collect();
        let with_encoded = infer_encoded(&model, &input, &Tensor::cat(&encoded, 0));
        let difference = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(difference(&at_once.logits, &with_encoded.logits) <= tolerance, "{kind:?}");
        assert!(difference(&at_once.attention, &with_encoded.attention) <= tolerance, "{kind:?}");
        // They do count.
        let none = infer_encoded(&model, &input, &Tensor::cat(&encoded, 0).zeros_like());
        assert!(difference(&at_once.attention, &none.attention) > 0.01);
    }
}
