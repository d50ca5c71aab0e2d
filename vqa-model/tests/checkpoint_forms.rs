//! Every form in which people save weights, written by the installed PyTorch, loads as the weights that were saved.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tch::nn::{self, VarStore};
use tch::{Device, Kind, Tensor};
use vqa_model::DataDims;
use vqa_model::baseline::{Baseline, ModelConfig};
use vqa_model::weights::load_weights;
use vqa_pytorch_reference::{configs, run};

const DIMS: DataDims = DataDims { n_words: 7, n_answers: 5, feature_dim: 6 };

fn model(config: &ModelConfig) -> VarStore {
    let vs = VarStore::new(Device::Cpu);
    Baseline::new(vs.root(), config, DIMS);
    vs
}

fn config() -> ModelConfig {
    configs().into_iter().find(|(name, _)| name == "gru_product_1_forward").unwrap().1
}

/// A directory with the output of `checkpoint_forms.py`; `None` if PyTorch is not installed.
fn forms() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let DataDims { n_words, n_answers, feature_dim } = DIMS;
    let dims = serde_json::json!({ "n_words": n_words, "n_answers": n_answers, "feature_dim": feature_dim });
    let spec = serde_json::json!({ "config": config(), "dims": dims });
    fs::write(directory.path().join("spec.json"), spec.to_string()).unwrap();
    run("checkpoint_forms.py", &[directory.path()]).then_some(directory)
}

/// Returns what is logged while `f` runs.
fn logged(f: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, f);
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}

/// The line that must be logged for each form that is not a plain state dict. Nothing is logged for the others.
const SAID: [(&str, &str); 14] = [
    ("nested_model_state.pth", "took the weights below \"model_state\""),
    ("nested_state_dict.pth", "took the weights below \"state_dict\""),
    ("nested_net.pth", "took the weights below \"net\""),
    ("nested_weights.v1.pth", "took the weights below \"weights.v1\""),
    ("nested_deep.pth", "took the weights below \"run.last.model\", removed \"module.\" from all names"),
    ("lightning.ckpt", "took the weights below \"state_dict\", removed \"model.\" from all names"),
    ("nested_module.pth", "took the weights below \"model\""),
    ("data_parallel.pth", "removed \"module.\" from all names"),
    ("compiled.pth", "removed \"_orig_mod.\" from names"),
    ("data_parallel_compiled.pth", "removed \"module.\" from all names, removed \"_orig_mod.\" from names"),
    ("inner_compiled.pth", "removed \"_orig_mod.\" from names"),
    ("data_parallel.safetensors", "removed \"module.\" from all names"),
    ("prefixed.safetensors", "removed \"net.model.\" from all names"),
    ("torch_0_3.pth", "removed \"module.\" from all names"),
];

#[test]
fn every_form_gives_the_weights_that_it_was_made_of() {
    let Some(directory) = forms() else { return };
    let config = config();
    let expected = model(&config);
    load_weights(&expected, &directory.path().join("expected.safetensors")).unwrap();
    let expected: BTreeMap<String, Tensor> = expected.variables().into_iter().collect();
    let said = BTreeMap::from(SAID);
    let mut n_forms = 0;
    for path in files_in(directory.path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "spec.json" {
            continue;
        }
        let vs = model(&config);
        let log = logged(|| load_weights(&vs, &path).unwrap_or_else(|error| panic!("{error}")));
        for (parameter, tensor) in vs.variables() {
            assert_eq!(tensor, expected[&parameter], "{name}: {parameter}");
        }
        match said.get(name) {
            Some(said) => {
                assert!(log.trim_end().ends_with(&format!("{name}: {said}")), "{name}: {log}");
                assert_eq!(log.lines().count(), 1, "{log}");
            }
            None if name == "new_weight_norm.safetensors" => assert!(log.contains("removed \"module.\" from"), "{log}"),
            None => assert_eq!(log, "", "{name}"),
        }
        n_forms += 1;
    }
    assert!(n_forms > 30, "{n_forms}");

    batch_norm(&directory.path().join("modules"));
    refused(&directory.path().join("refused"), &config);
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// A batch norm's counter is loaded if the model has one, and ignored otherwise.
fn batch_norm(directory: &Path) {
    let model = |with_counter: bool| {
        let vs = VarStore::new(Device::Cpu);
        let _ = nn::conv2d(vs.root() / "conv", 3, 4, 1, Default::default());
        let _ = nn::batch_norm2d(vs.root() / "bn", 4, Default::default());
        if with_counter {
            let _ = (vs.root() / "bn").add("num_batches_tracked", Tensor::from(0i64), false);
        }
        vs
    };
    let expected = model(false);
    assert_eq!(logged(|| load_weights(&expected, &directory.join("floats_only.safetensors")).unwrap()), "");
    let expected = expected.variables();
    for name in ["batch_norm.pth", "batch_norm.safetensors"] {
        for with_counter in [false, true] {
            let vs = model(with_counter);
            let log = logged(|| load_weights(&vs, &directory.join(name)).unwrap());
            assert_eq!(log.contains("left out 1 integer tensor (bn.num_batches_tracked)"), !with_counter, "{log}");
            for (parameter, tensor) in vs.variables() {
                match expected.get(&parameter) {
                    Some(expected) => assert_eq!(tensor, *expected, "{name}: {parameter}"),
                    None => {
                        assert_eq!(parameter, "bn.num_batches_tracked");
                        // Three batches went through the module.
                        assert_eq!((tensor.kind(), tensor.int64_value(&[])), (Kind::Int64, 3));
                    }
                }
            }
        }
    }
}

fn refused(directory: &Path, config: &ModelConfig) {
    for (name, words) in [
        ("two.pth", &["several state dicts in it fit, \"ema\" and \"model\""][..]),
        ("extra.pth", &["loss.weight is not in this model"]),
        ("missing.pth", &["q_net.main.0.bias is missing; q_net.main.0.weight_g is missing; q_net.main.0.weight_v is"]),
        ("shape.pth", &["q_net.main.0.bias is [3] in the file and [12] here"]),
        ("int.pth", &["\"q_net.main.0.bias\" is I32, not a float type"]),
        ("script.pth", &["a TorchScript archive", "torch.jit.load"]),
    ] {
        let vs = model(config);
        let before: BTreeMap<String, Tensor> = vs.variables().into_iter().map(|(name, x)| (name, x.copy())).collect();
        let error = load_weights(&vs, &directory.join(name)).expect_err(name).to_string();
        for words in words.iter().chain([&name]) {
            assert!(error.contains(words), "{error}");
        }
        assert!(vs.variables().iter().all(|(name, tensor)| *tensor == before[name]), "{name}: the model is as it was");
    }
}
