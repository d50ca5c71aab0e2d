//! The hand-written forward and backward passes in float32 are as accurate as PyTorch's layers in float32: both are
//! compared with float64.

use std::collections::BTreeMap;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_model::baseline::{AttentionConfig, Baseline, ClassifierConfig, LanguageModelConfig, ModelConfig};
use vqa_model::{DataDims, ModelInput, ModelOutput, VqaModel};

const DIMS: DataDims = DataDims { n_words: 2, n_answers: 100, feature_dim: 64 };

/// All questions are about one image and have few distinct texts, so that sums over the questions of an image or of a
/// text have many terms.
const N_QUESTIONS: i64 = 4096;
const N_REGIONS: i64 = 36;
const HID_DIM: i64 = 128;

type Results = BTreeMap<String, Tensor>;

fn model(kind: Kind) -> (VarStore, Baseline) {
    tch::manual_seed(6);
    let config = ModelConfig {
        hid_dim: HID_DIM,
        lm: LanguageModelConfig { word_emb_dim: 50, ..LanguageModelConfig::default() },
        topdown_att: AttentionConfig { hid_dim: HID_DIM, dropout: 0.0, ..AttentionConfig::default() },
        mlp: ClassifierConfig { hid_dim: 2 * HID_DIM, dropout: 0.0 },
        ..ModelConfig::default()
    };
    let mut vs = VarStore::new(Device::Cpu);
    let model = Baseline::new(vs.root(), &config, DIMS);
    vs.set_kind(kind);
    (vs, model)
}

/// The input, and the gradient with respect to the logits, which is that of BCE when no answer is right: its terms do
/// not cancel. Features look as if they came after a ReLU, and have much in common, like the regions of an image.
fn input() -> (ModelInput, Tensor) {
    tch::manual_seed(8);
    let (floats, integers) = ((Kind::Float, Device::Cpu), (Kind::Int64, Device::Cpu));
    let of_image = Tensor::randn([1, 1, DIMS.feature_dim], floats).relu();
    let of_region = Tensor::randn([1, N_REGIONS, DIMS.feature_dim], floats).relu();
    let input = ModelInput {
        tokens: Tensor::randint(DIMS.n_words, [N_QUESTIONS, 3], integers),
        features: (of_image + of_region) / 2.0,
        boxes: Tensor::zeros([1, N_REGIONS, 4], floats),
        image_rows: Tensor::zeros([N_QUESTIONS], integers),
        padding: None,
        dropout: None,
        order: None,
    };
    let grad_logits = Tensor::randn([N_QUESTIONS, DIMS.n_answers], floats).sigmoid() / N_QUESTIONS as f64;
    (input, grad_logits)
}

/// The same input, but with a copy of its image's regions for each question, as in the PyTorch module.
fn expanded(input: &ModelInput, kind: Kind) -> ModelInput {
    ModelInput {
        tokens: input.tokens.shallow_clone(),
        features: input.features.to_kind(kind).index_select(0, &input.image_rows),
        boxes: input.boxes.index_select(0, &input.image_rows),
        image_rows: Tensor::arange(N_QUESTIONS, (Kind::Int64, Device::Cpu)),
        padding: None,
        dropout: None,
        order: None,
    }
}

fn results(vs: &VarStore, output: ModelOutput) -> Results {
    let mut results: Results =
        vs.variables().into_iter().map(|(name, variable)| (name, variable.grad().to_kind(Kind::Double))).collect();
    // Adding the same value to all scores does not change a softmax: this gradient is 0 except for rounding.
    results.remove("v_att.linear.bias");
    results.insert("logits".to_owned(), output.logits.detach().to_kind(Kind::Double));
    results.insert("attention".to_owned(), output.attention.detach().to_kind(Kind::Double));
    results
}

/// The results of libtorch's layers and their automatic differentiation.
fn by_layers(kind: Kind) -> Results {
    let (vs, model) = model(kind);
    let (input, grad_logits) = input();
    let output = model.forward(&expanded(&input, kind), false);
    (&output.logits * &grad_logits).sum(Kind::Double).backward();
    results(&vs, output)
}

fn written_out() -> Results {
    let (vs, model) = model(Kind::Float);
    let (input, grad_logits) = input();
    let pass = VqaModel::train(&model, &input);
    let output = ModelOutput { logits: pass.output.logits.copy(), attention: pass.output.attention.copy() };
    pass.backward(&grad_logits);
    results(&vs, output)
}

/// The root mean square of the differences, divided by `scale`. Unlike a maximum, it hardly depends on chance.
fn error(found: &Tensor, exact: &Tensor, scale: f64) -> f64 {
    (found - exact).square().mean(Kind::Double).sqrt().double_value(&[]) / scale
}

#[test]
fn written_out_passes_are_as_exact_as_pytorch() {
    tch::set_num_threads(1);
    let (exact, theirs, ours) = (by_layers(Kind::Double), by_layers(Kind::Float), written_out());
    println!("{:32} {:>10} {:>10} {:>6}", "relative to float64", "PyTorch", "ours", "");
    let mut inexact = Vec::new();
    for (name, exact_value) in &exact {
        let of = match name.strip_suffix("weight_g") {
            // The gradient of g is a sum of products of v and its gradient: a single value, which may be near 0.
            Some(layer) => &exact[&format!("{layer}weight_v")],
            None => exact_value,
        };
        let size = of.square().mean(Kind::Double).sqrt().double_value(&[]);
        let scale = if name.ends_with("weight_g") { of.norm().double_value(&[]) } else { size };
        let [theirs, ours] = [&theirs, &ours].map(|results| error(&results[name], exact_value, scale));
        println!("{name:32} {theirs:10.1e} {ours:10.1e} {:6.2}", ours / theirs);
        // By chance, PyTorch's error may be less than a rounding or two.
        if ours > 2.0 * theirs.max(2.0 * f64::from(f32::EPSILON)) {
            inexact.push(name);
        }
    }
    assert!(inexact.is_empty(), "less than half as exact as PyTorch: {inexact:?}");
}
