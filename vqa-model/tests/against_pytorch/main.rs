//! The model and the backbones compute what PyTorch computes: the model with weights created here and loaded there, and
//! the other way round.

mod backbones;

use std::collections::HashMap;
use std::path::Path;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use vqa_model::baseline::Baseline;
use vqa_model::weights::{Header, load_weights, read_tensors, save_weights, write_tensors};
use vqa_model::{DataDims, ModelInput, VqaModel};

const DIMS: DataDims = DataDims { n_words: 20, n_answers: 7, feature_dim: 10 };

/// Six questions about four images of five regions each, and a weight for each logit, which turns the logits into a
/// scalar to differentiate.
fn inputs() -> HashMap<String, Tensor> {
    let options = (Kind::Float, Device::Cpu);
    let tokens = Tensor::randint(DIMS.n_words, [6, 6], (Kind::Int64, Device::Cpu));
    // The first question is padded in front.
    let _ = tokens.get(0).narrow(0, 0, 3).fill_(DIMS.n_words);
    HashMap::from([
        ("tokens".to_owned(), tokens),
        ("features".to_owned(), Tensor::randn([4, 5, DIMS.feature_dim], options)),
        ("image_rows".to_owned(), Tensor::from_slice(&[0i64, 2, 2, 1, 3, 0])),
        ("logit_weights".to_owned(), Tensor::randn([6, DIMS.n_answers], options)),
    ])
}

/// Returns logits, attention and gradients, under the names that the Python reference uses.
fn results(vs: &VarStore, model: &Baseline, inputs: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let input = ModelInput {
        tokens: inputs["tokens"].shallow_clone(),
        features: inputs["features"].shallow_clone(),
        boxes: Tensor::zeros([1], (Kind::Float, Device::Cpu)),
        image_rows: inputs["image_rows"].shallow_clone(),
        padding: None,
        dropout: None,
        order: None,
    };
    let output = model.forward(&input, false);
    (&output.logits * &inputs["logit_weights"]).sum(Kind::Float).backward();
    let mut results: HashMap<String, Tensor> =
        vs.variables().into_iter().map(|(name, variable)| (format!("grad.{name}"), variable.grad())).collect();
    results.insert("logits".to_owned(), output.logits.detach());
    results.insert("attention".to_owned(), output.attention.detach());
    results
}

/// Asserts that logits and attention agree within 1e-5, and gradients within 1e-4 of each tensor's largest entry.
fn assert_agree(case: &str, ours: &HashMap<String, Tensor>, path: &Path) {
    let theirs = read_tensors(path).unwrap();
    assert_eq!(theirs.len(), ours.len(), "{case}");
    for (name, expected) in theirs {
        let found = &ours[&name];
        assert_eq!(found.size(), expected.size(), "{case} {name}");
        let off = (found - &expected).abs().max().double_value(&[]);
        let limit = if name.starts_with("grad.") { 1e-4 * expected.abs().max().double_value(&[]) } else { 1e-5 };
        assert!(off <= limit.max(1e-7), "{case} {name}: off by {off}, limit {limit}");
    }
}

#[test]
fn logits_attention_and_gradients_agree() {
    // The models are tiny: several threads would only wait for each other.
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let directory = tempfile::tempdir().unwrap();
    let path = |case: &str, ending: &str| directory.path().join(format!("{case}.{ending}"));
    let mut cases = Vec::new();
    for (case, config) in vqa_pytorch_reference::configs() {
        let vs = VarStore::new(Device::Cpu);
        let model = Baseline::new(vs.root(), &config, DIMS);
        let inputs = inputs();
        let dims = serde_json::json!({
            "n_words": DIMS.n_words, "n_answers": DIMS.n_answers, "feature_dim": DIMS.feature_dim
        });
        let spec = serde_json::json!({ "config": config, "dims": dims });
        std::fs::write(path(&case, "json"), spec.to_string()).unwrap();
        save_weights(&vs, &path(&case, "rust.safetensors"), Header::new()).unwrap();
        let stored: Vec<_> = inputs.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        write_tensors(&path(&case, "input.safetensors"), &stored, Header::new()).unwrap();
        cases.push((case, vs, model, inputs));
    }
    assert_eq!(cases.len(), 16);
    if !vqa_pytorch_reference::run("forward_backward.py", &[directory.path()]) {
        return;
    }
    for (case, vs, model, inputs) in &cases {
        assert_agree(case, &results(vs, model, inputs), &path(case, "answer.safetensors"));
        load_weights(vs, &path(case, "own.safetensors")).unwrap();
        vs.trainable_variables().iter_mut().for_each(|variable| variable.zero_grad());
        assert_agree(case, &results(vs, model, inputs), &path(case, "own_answer.safetensors"));
    }
}
