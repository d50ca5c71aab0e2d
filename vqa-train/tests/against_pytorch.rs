//! Training matches PyTorch's over fifty steps: losses, Adamax, clipping and schedule.

use std::path::Path;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::loss::LossKind;
use vqa_model::loss::loss_and_gradient;
use vqa_model::weights::Header;
use vqa_model::weights::{read_tensors, save_weights, write_tensors};
use vqa_model::{DataDims, ModelInput, VqaModel};
use vqa_train::optim::Optimizer;
use vqa_train::{AdamaxConfig, TrainConfig};

const DIMS: DataDims = DataDims { n_words: 20, n_answers: 7, feature_dim: 10 };
const N_STEPS: usize = 50;
const N_BATCHES: i64 = 5;
const B: i64 = 8;

/// Returns the trainings to compare: every model with the article's settings but a higher learning rate; and one of
/// them with a schedule and other optimiser settings, without clipping, and with the softmax loss.
fn cases() -> Vec<(String, ModelConfig, TrainConfig)> {
    let optim = AdamaxConfig { lr: 0.01, ..AdamaxConfig::default() };
    let train = TrainConfig { optim, ..TrainConfig::default() };
    // Without dropout, since PyTorch would draw other masks.
    let without_dropout = |(name, mut config): (String, ModelConfig)| {
        (config.topdown_att.dropout, config.mlp.dropout, config.lm.dropout) = (0.0, 0.0, 0.0);
        (name, config, train.clone())
    };
    let mut cases: Vec<_> = vqa_pytorch_reference::configs().into_iter().map(without_dropout).collect();
    let (name, config, _) = cases[5].clone();
    let scheduled = TrainConfig {
        warmup_steps: 10,
        lr_steps: vec![20, 35],
        optim: AdamaxConfig {
            lr: 0.02,
            betas: [0.8, 0.99],
            eps: 1e-6,
            weight_decay: 0.01,
            weight_decay_of: [("w_emb".to_owned(), 0.0), ("classifier".to_owned(), 0.1)].into(),
        },
        ..train.clone()
    };
    cases.push((format!("{name}_scheduled"), config.clone(), scheduled));
    let unclipped = TrainConfig { clip_grad: false, ..train.clone() };
    cases.push((format!("{name}_unclipped"), config.clone(), unclipped));
    let softmax = ModelConfig { loss: LossKind::Softmax, ..config };
    cases.push((format!("{name}_softmax"), softmax, train));
    cases
}

/// Tokens, regions and targets of some batches. The softmax loss of the original PyTorch code needs exactly one label
/// per question.
fn batches(kind: LossKind) -> Vec<(String, Tensor)> {
    let options = (Kind::Float, Device::Cpu);
    let targets = match kind {
        LossKind::Logistic => {
            let scores = Tensor::from_slice(&[0f32, 0.0, 0.0, 0.0, 0.3, 0.6, 0.9, 1.0]);
            let drawn = Tensor::randint(8, [N_BATCHES * B * DIMS.n_answers], (Kind::Int64, Device::Cpu));
            scores.index_select(0, &drawn).view([N_BATCHES, B, DIMS.n_answers])
        }
        LossKind::Softmax => {
            let labels = Tensor::randint(DIMS.n_answers, [N_BATCHES, B], (Kind::Int64, Device::Cpu));
            labels.one_hot(DIMS.n_answers).to_kind(Kind::Float) * 0.6
        }
    };
    vec![
        ("tokens".to_owned(), Tensor::randint(DIMS.n_words + 1, [N_BATCHES, B, 6], (Kind::Int64, Device::Cpu))),
        ("features".to_owned(), Tensor::randn([N_BATCHES, B, 5, DIMS.feature_dim], options)),
        ("targets".to_owned(), targets),
    ]
}

#[test]
fn fifty_steps_follow_pytorch() {
    // The models are tiny: several threads would only wait for each other.
    tch::set_num_threads(1);
    let directory = tempfile::tempdir().unwrap();
    let path = |case: &str, ending: &str| directory.path().join(format!("{case}.{ending}"));
    let mut trainings = Vec::new();
    for (case, config, train) in cases() {
        // The same weights, whatever earlier cases have drawn.
        tch::manual_seed(6);
        let vs = VarStore::new(Device::Cpu);
        let model = Baseline::new(vs.root(), &config, DIMS);
        let batches = batches(config.loss);
        let spec = serde_json::json!({
            "config": config, "train": train, "n_steps": N_STEPS,
            "dims": {"n_words": DIMS.n_words, "n_answers": DIMS.n_answers, "feature_dim": DIMS.feature_dim},
        });
        std::fs::write(path(&case, "json"), spec.to_string()).unwrap();
        save_weights(&vs, &path(&case, "rust.safetensors"), Header::new()).unwrap();
        write_tensors(&path(&case, "input.safetensors"), &batches, Header::new()).unwrap();

        let mut optimizer = Optimizer::new(vs.variables(), &train);
        let losses: Vec<f64> = (0..N_STEPS as i64)
            .map(|step| {
                let of_step = |i: usize| batches[i].1.get(step % N_BATCHES);
                let input = ModelInput {
                    tokens: of_step(0),
                    features: of_step(1),
                    boxes: Tensor::zeros([1], (Kind::Float, Device::Cpu)),
                    image_rows: Tensor::arange(B, (Kind::Int64, Device::Cpu)),
                    padding: None,
                    dropout: None,
                    order: None,
                };
                let pass = model.train(&input);
                let (loss, of_logits) = loss_and_gradient(config.loss, &pass.output.logits, &of_step(2));
                pass.backward(&of_logits);
                optimizer.apply();
                loss.double_value(&[])
            })
            .collect();
        // The batches repeat every five steps, so both losses are of the first one.
        assert!(losses[45] < losses[0], "{case} learns: {losses:?}");
        trainings.push((case, vs, losses));
    }
    assert_eq!(trainings.len(), 19);
    if vqa_pytorch_reference::run("training.py", &[directory.path()]) {
        for (case, vs, losses) in trainings {
            assert_follows(&case, &losses, &vs, &path(&case, "answer.safetensors"));
        }
    }
}

/// Asserts that losses agree within a relative 1e-3, and the final weights within 1e-3 of each tensor's largest entry.
fn assert_follows(case: &str, losses: &[f64], vs: &VarStore, answer: &Path) {
    let ours = vs.variables();
    for (name, theirs) in read_tensors(answer).unwrap() {
        if name == "losses" {
            let theirs = Vec::<f32>::try_from(theirs).unwrap();
            assert_eq!(theirs.len(), losses.len());
            for (step, (&found, expected)) in losses.iter().zip(theirs).enumerate() {
                let expected = f64::from(expected);
                assert!((found - expected).abs() <= 1e-3 * expected, "{case} step {step}: {found}, {expected}");
            }
        } else if name != "v_att.linear.bias" {
            // The softmax ignores this bias, so its gradient is rounding noise, which Adamax magnifies to full steps.
            let off = (&ours[&name] - &theirs).abs().max().double_value(&[]);
            assert!(off <= 1e-3 * theirs.abs().max().double_value(&[]), "{case} {name}: off by {off}");
        }
    }
}
