//! Variants of the model.

use vqa_model::baseline::{AttentionKind, ModelConfig, RnnKind};

/// The config of the article's model, changed in the ways that `kind` lists, as in `lstm,layers=2`.
pub fn config_of(kind: &str) -> Result<ModelConfig, String> {
    let mut config = ModelConfig::default();
    for difference in kind.split(',') {
        match difference {
            "article" => {}
            "lstm" => config.lm.rnn_type = RnnKind::Lstm,
            "concat" => config.topdown_att.kind = AttentionKind::Concat,
            "layers=2" => config.lm.n_layers = 2,
            "bidirectional" => config.lm.bidirectional = true,
            _ => return Err(format!("no kind of model: {kind}")),
        }
    }
    Ok(config)
}
