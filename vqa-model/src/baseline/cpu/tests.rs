//! Tests of the written-out passes against the layers one by one, differentiated by libtorch.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use self::plain::plain;
use crate::baseline::config::{
    AttentionConfig, AttentionKind, ClassifierConfig, LanguageModelConfig, ModelConfig, RnnKind,
};
use crate::baseline::cpu::masks::DropoutMasks;
use crate::baseline::cpu::passes::{Seeds, encode_images, infer, infer_encoded, serves, train};
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::question_encoder::seed_of_dropout;
use crate::baseline::cpu::steps::{Steps, Unrolled};
use crate::baseline::layers::Baseline;
use crate::model::{DataDims, DropoutSeed, ModelInput, ModelOutput, VqaModel};

mod plain;

const DIMS: DataDims = DataDims { n_words: 9, n_answers: 11, feature_dim: 37 };
const B: i64 = 40;
const SEED: u64 = 77;

fn seed_of(seed: u64) -> DropoutSeed {
    DropoutSeed { seed, first: 0 }
}

/// A kind of model.
#[derive(Debug, Clone, Copy)]
struct ModelKind {
    rnn_type: RnnKind,
    attention: AttentionKind,
    n_layers: i64,
    bidirectional: bool,
}

const ARTICLE: ModelKind =
    ModelKind { rnn_type: RnnKind::Gru, attention: AttentionKind::Product, n_layers: 1, bidirectional: false };
const LSTM: ModelKind = ModelKind { rnn_type: RnnKind::Lstm, ..ARTICLE };
const KINDS: [ModelKind; 8] = [
    ARTICLE,
    LSTM,
    ModelKind { attention: AttentionKind::Concat, ..ARTICLE },
    ModelKind { n_layers: 3, ..ARTICLE },
    ModelKind { n_layers: 2, ..LSTM },
    ModelKind { bidirectional: true, ..ARTICLE },
    ModelKind { bidirectional: true, n_layers: 2, ..ARTICLE },
    ModelKind { bidirectional: true, n_layers: 3, attention: AttentionKind::Concat, ..LSTM },
];
/// Dropout between layers.
const RNN_DROPOUT: f64 = 0.3;

/// libtorch has one random number generator for all tests.
pub(crate) fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random model whose widths are all different, and not multiples of the kernels' lanes.
fn model(kind: ModelKind, dropout: [f64; 2], seed: i64) -> (VarStore, Baseline) {
    tch::manual_seed(seed);
    let vs = VarStore::new(Device::Cpu);
    let config = ModelConfig {
        hid_dim: 23,
        lm: LanguageModelConfig {
            word_emb_dim: 7,
            rnn_type: kind.rnn_type,
            n_layers: kind.n_layers,
            bidirectional: kind.bidirectional,
            dropout: RNN_DROPOUT,
            ..LanguageModelConfig::default()
        },
        topdown_att: AttentionConfig { kind: kind.attention, hid_dim: 41, dropout: dropout[0] },
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
        order: None,
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

/// For each layer but the first, the masks of its input, [B, T, D H]: for each word, the mask of the state that has
/// read up to it, forwards or backwards.
fn rnn_masks(kind: ModelKind, input: &ModelInput, seed: u64) -> Vec<Tensor> {
    const H: usize = 23;
    let tokens = |tokens: &Tensor| Vec::<i64>::try_from(tokens.contiguous().view([-1])).unwrap();
    let prefixes = PrefixTree::new(&tokens(&input.tokens), 6);
    let unrolled = match kind.bidirectional {
        true => Unrolled::bidirectional(&prefixes, &PrefixTree::new(&tokens(&input.tokens.flip([1])), 6)),
        false => Unrolled::unidirectional(&prefixes),
    };
    let of_direction = |layer: usize, d: usize, steps: &Steps| {
        let masks = DropoutMasks::draw_by_keys(seed_of_dropout(seed, layer, d), &steps.keys, H, RNN_DROPOUT);
        let mut nodes = Vec::new();
        for &text in prefixes.leaves() {
            let mut node = steps.results[text as usize];
            let mut read_last: Vec<i64> = Vec::new();
            for _ in 0..6 {
                read_last.push(node as i64);
                node = steps.tree.parent(node);
            }
            // Forwards, the last word is read last; backwards, the first.
            if d == 0 {
                read_last.reverse();
            }
            nodes.extend(read_last);
        }
        let masks = dense(&masks, steps.tree.len() as i64, H as i64);
        masks.index_select(0, &Tensor::from_slice(&nodes)).view([B, 6, H as i64])
    };
    (1..kind.n_layers as usize)
        .map(|layer| {
            let directions = unrolled.layer(layer - 1).iter().enumerate();
            let masks: Vec<Tensor> = directions.map(|(d, steps)| of_direction(layer, d, steps)).collect();
            Tensor::cat(&masks, 2)
        })
        .collect()
}

/// Gradients by parameter name, and other results.
type Results = HashMap<String, Tensor>;

/// Takes the gradients out of the parameters.
fn take_grads(vs: &VarStore) -> Results {
    let taken = vs.variables().into_iter().map(|(name, parameter)| (name, parameter.grad().copy())).collect();
    vs.variables().into_values().for_each(|mut parameter| parameter.zero_grad());
    taken
}

/// The scale that a tensor's rounding errors are measured against: its largest value. The gradient of a layer's g is
/// a single value, a sum over the gradient of v, so it is measured against the norm of the latter.
fn scale(all: &Results, name: &str) -> f64 {
    match name.strip_suffix("weight_g") {
        Some(layer) => all[&format!("{layer}weight_v")].norm().double_value(&[]),
        None => all[name].abs().max().double_value(&[]),
    }
}

/// The largest difference, relative to a scale.
fn off(a: &Tensor, b: &Tensor, scale: f64) -> f64 {
    (a - b).abs().max().double_value(&[]) / scale
}

/// Logits, attention and gradients of the written-out passes, of the plain layers with the same masks, and of
/// the plain layers in float32.
fn three_ways(model_kind: ModelKind, dropout: [f64; 2], kind: Kind, seed: i64) -> [Results; 3] {
    let _generator = generator();
    let (vs, model) = model(model_kind, dropout, seed);
    let input = input(kind);
    assert!(serves(&input));
    let grad_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
    let results = |output: [Tensor; 2]| -> Results {
        let [logits, attention] = output;
        let mut results = take_grads(&vs);
        // Softmax is invariant to adding the same value to all scores: this gradient is 0 except for rounding.
        results.remove("v_att.linear.bias");
        results.extend([("logits".to_owned(), logits), ("attention".to_owned(), attention)]);
        results
    };

    let pass = train(&model, &input, seed_of(SEED));
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
    let seeds = Seeds::new(Some(seed_of(SEED)));
    let product_masks = masks(5, 41, seeds.attention.unwrap(), dropout[0]).view([B, 5, 41]);
    let hidden_masks = masks(1, 50, seeds.classifier.unwrap(), dropout[1]);
    let rnn_masks = rnn_masks(model_kind, &input, seeds.encoder.unwrap());
    let plainly = |input: &ModelInput| {
        let ModelOutput { logits, attention } = plain(&model, input, [&product_masks, &hidden_masks], &rnn_masks);
        (&logits * &grad_logits).sum(Kind::Float).backward();
        results([logits.detach(), attention.detach()])
    };
    let same = plainly(&input);
    let exact = plainly(&ModelInput { features: input.features.to_kind(Kind::Float), ..input });
    [fused, same, exact]
}

#[test]
fn training_is_the_plain_way_with_the_same_masks() {
    for kind in KINDS {
        for dropout in [[0.2, 0.5], [0.0, 0.5], [0.2, 0.0], [0.0, 0.0]] {
            let [fused, plain, _] = three_ways(kind, dropout, Kind::Float, 3);
            assert_eq!(fused.len(), plain.len());
            for (name, expected) in &plain {
                let off = off(&fused[name], expected, scale(&plain, name));
                assert!(off < 2e-5, "{kind:?} with dropout {dropout:?}: {name} is off by {off}");
            }
        }
    }
}

/// bfloat16's 8 bits cost no more precision than in the plain layers, roughly and on average over several models:
/// chance decides which inputs of ReLUs are so close to 0 that they are rounded to the other side.
#[test]
fn bf16_is_as_precise_as_the_plain_way() {
    const N_MODELS: i64 = 16;
    for kind in KINDS {
        let mut errors: HashMap<String, [f64; 2]> = HashMap::new();
        for seed in 0..N_MODELS {
            let [fused, plain, exact] = three_ways(kind, [0.2, 0.5], Kind::BFloat16, seed);
            for (name, exact) in exact {
                let scale = scale(&plain, &name);
                let found = [&fused, &plain].map(|results| off(&results[&name], &exact, scale) / N_MODELS as f64);
                let [ours, theirs] = errors.entry(name).or_default();
                (*ours, *theirs) = (*ours + found[0], *theirs + found[1]);
            }
        }
        for (name, [ours, theirs]) in &errors {
            assert!(*ours < 4.0 * theirs.max(0.04), "{kind:?}: {name} is off by {ours}, the plain layers by {theirs}");
        }
        let [ours, theirs] = [0, 1].map(|i| errors.values().map(|errors| errors[i]).sum::<f64>());
        assert!(ours < 1.5 * theirs, "{kind:?}: all is off by {ours}, the plain layers by {theirs}");
    }
}

#[test]
fn gradients_add_up() {
    let _generator = generator();
    let (vs, model) = model(ARTICLE, [0.2, 0.5], 3);
    let input = input(Kind::Float);
    let grad_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
    train(&model, &input, seed_of(SEED)).backward(&grad_logits);
    let once = take_grads(&vs);
    train(&model, &input, seed_of(SEED)).backward(&grad_logits);
    train(&model, &input, seed_of(SEED)).backward(&grad_logits);
    for (name, twice) in take_grads(&vs) {
        assert!(off(&(twice / 2.0), &once[&name], scale(&once, &name)) < 1e-6, "{name}");
    }
}

#[test]
fn inference_is_the_plain_way() {
    let _generator = generator();
    for kind in KINDS {
        let (_vs, model) = model(kind, [0.2, 0.5], 3);
        let input = input(Kind::Float);
        let (found, expected) = (model.infer(&input), model.forward(&input, false));
        for (found, expected) in [(&found.logits, &expected.logits), (&found.attention, &expected.attention)] {
            assert!(off(found, expected, expected.abs().max().double_value(&[])) < 1e-5, "{kind:?}");
            assert!(!found.requires_grad() && expected.requires_grad());
        }
    }
}

/// The same libtorch seed gives the same dropout, and each step gets a different one.
#[test]
fn libtorchs_seed_decides() {
    let _generator = generator();
    let (_vs, model) = model(ARTICLE, [0.2, 0.5], 3);
    let input = input(Kind::Float);
    let logits = || VqaModel::train(&model, &input).output.logits;
    tch::manual_seed(8);
    let (first, second) = (logits(), logits());
    tch::manual_seed(8);
    assert_eq!(logits(), first);
    assert_ne!(first, second);
}

/// Encoding images beforehand, one by one, changes nothing but the last digits.
#[test]
fn images_can_be_encoded_beforehand() {
    let kinds = [AttentionKind::Product, AttentionKind::Concat];
    let types = [(Kind::Float, 1e-6), (Kind::BFloat16, 0.0)];
    for (attention, (kind, tolerance)) in kinds.into_iter().flat_map(|kind| types.map(|of_type| (kind, of_type))) {
        let (_vs, model) = model(ModelKind { attention, ..ARTICLE }, [0.2, 0.5], 3);
        let input = input(kind);
        let at_once = infer(&model, &input);
        let encoded: Vec<Tensor> =
            (0..7).map(|image| encode_images(&model, &input.features.narrow(0, image, 1))).collect();
        let with_encoded = infer_encoded(&model, &input, &Tensor::cat(&encoded, 0));
        let difference = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(difference(&at_once.logits, &with_encoded.logits) <= tolerance, "{kind:?}");
        assert!(difference(&at_once.attention, &with_encoded.attention) <= tolerance, "{kind:?}");
        // The encoded images do matter.
        let none = infer_encoded(&model, &input, &Tensor::cat(&encoded, 0).zeros_like());
        assert!(difference(&at_once.attention, &none.attention) > 0.01);
    }
}
