//! Reference implementations in PyTorch of the model, its training and the backbones, for tests to compare with. The
//! model is in `baseline.py`. The scripts need a Python with PyTorch, which `make setup` installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use vqa_model::baseline::{
    AttentionConfig, AttentionKind, ClassifierConfig, LanguageModelConfig, ModelConfig, RnnKind,
};
use vqa_model::loss::LossKind;

/// Runs a script in this directory. Returns false if it was skipped because Python has no PyTorch; with
/// VQA_REQUIRE_PYTORCH=1 that is a panic instead.
pub fn run(script: &str, arguments: &[&Path]) -> bool {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut search_path = vec![here.to_owned()];
    if let Some(site) = option_env!("LIBTORCH").and_then(|libtorch| Path::new(libtorch).parent().map(PathBuf::from)) {
        search_path.push(site);
    }
    if let Some(path) = std::env::var_os("PYTHONPATH") {
        search_path.extend(std::env::split_paths(&path));
    }
    let command = || {
        let mut command = Command::new(&python);
        command.env("PYTHONPATH", std::env::join_paths(&search_path).unwrap());
        // Several threads would only wait for each other: the models are tiny.
        command.env("OMP_NUM_THREADS", "1");
        command
    };
    let output = command().arg(here.join(script)).args(arguments).output();
    if output.as_ref().is_ok_and(|output| output.status.success()) {
        return true;
    }
    // Importing PyTorch takes longer than most scripts, so the import is tried by itself only after a script has
    // failed.
    let check = command().args(["-c", "import numpy, safetensors, torch"]).output();
    if check.as_ref().is_ok_and(|check| check.status.success()) {
        panic!("{script}: {}", String::from_utf8_lossy(&output.unwrap().stderr));
    }
    assert!(
        std::env::var_os("VQA_REQUIRE_PYTORCH").is_none(),
        "{python} cannot import torch, numpy and safetensors ({check:?}): run `make setup`"
    );
    eprintln!("skipped: {python} has no torch, numpy and safetensors; `make setup` installs them");
    false
}

/// Returns every combination of cell, attention, number of layers and direction.
pub fn configs() -> Vec<(String, ModelConfig)> {
    let mut configs = Vec::new();
    for (rnn_name, rnn_type) in [("gru", RnnKind::Gru), ("lstm", RnnKind::Lstm)] {
        for (attention_name, kind) in [("concat", AttentionKind::Concat), ("product", AttentionKind::Product)] {
            for n_layers in [1, 2] {
                for bidirectional in [false, true] {
                    let config = ModelConfig {
                        hid_dim: 12,
                        loss: LossKind::Logistic,
                        init: None,
                        lm: LanguageModelConfig {
                            word_emb_dim: 9,
                            glove: None,
                            rnn_type,
                            n_layers,
                            bidirectional,
                            dropout: 0.1,
                        },
                        topdown_att: AttentionConfig { kind, hid_dim: 11, dropout: 0.2 },
                        mlp: ClassifierConfig { hid_dim: 13, dropout: 0.5 },
                    };
                    let direction = if bidirectional { "both" } else { "forward" };
                    configs.push((format!("{rnn_name}_{attention_name}_{n_layers}_{direction}"), config));
                }
            }
        }
    }
    configs
}
