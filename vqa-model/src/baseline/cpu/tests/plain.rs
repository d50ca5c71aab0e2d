//! The layers one by one, with given dropout masks.

use tch::{Kind, Tensor};

use crate::baseline::config::RnnKind;
use crate::baseline::layers::Baseline;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::model::{ModelInput, ModelOutput};

/// [`Baseline::forward`] in training, line by line, with these masks instead of libtorch's dropout.
pub(super) fn plain(model: &Baseline, input: &ModelInput, masks: [&Tensor; 2], rnn_masks: &[Tensor]) -> ModelOutput {
    let kind = input.features.kind();
    let question = question(model, &model.w_emb.forward(&input.tokens).to_kind(kind), rnn_masks);
    let regions = input.features.index_select(0, &input.image_rows); // [B, K, D]
    let (vectors, linear) = match &model.v_att {
        TopdownAttention::Product(att) => {
            (att.v_proj.forward(&regions) * att.q_proj.forward(&question).unsqueeze(1), &att.linear)
        }
        TopdownAttention::Concat(att) => {
            let [b, k, _] = regions.size()[..] else { unreachable!() };
            let question = question.unsqueeze(1).expand([b, k, -1], false);
            (att.nonlinear.forward(&Tensor::cat(&[&regions, &question], 2)), &att.linear)
        }
    };
    let scores = linear.forward(&(vectors * masks[0].to_kind(kind))).squeeze_dim(2);
    let attention = input.attention(&scores.to_kind(Kind::Float));
    let attended = (attention.unsqueeze(2) * regions).sum_dim_intlist(1, false, Kind::Float).to_kind(kind);
    let joint = model.q_net.forward(&question) * model.v_net.forward(&attended);
    let hidden = model.classifier.hidden.forward(&joint).relu() * masks[1].to_kind(kind);
    ModelOutput { logits: model.classifier.output.forward(&hidden).to_kind(Kind::Float), attention }
}

/// The recurrent network's layers one by one, from words [B, T, E], with the dropout masks between them.
fn question(model: &Baseline, words: &Tensor, masks: &[Tensor]) -> Tensor {
    let config = &model.q_emb.config;
    let (kind, n_directions) = (words.kind(), if config.bidirectional { 2 } else { 1 });
    let (b, h) = (words.size()[0], model.q_emb.weights[1].size()[1]);
    let zeros = Tensor::zeros([n_directions, b, h], (kind, words.device()));
    let mut states = words.shallow_clone();
    for (layer, weights) in model.q_emb.weights.chunks(4 * n_directions as usize).enumerate() {
        let weights: Vec<Tensor> = weights.iter().map(|weight| weight.to_kind(kind)).collect();
        if layer > 0 {
            states = &states * masks[layer - 1].to_kind(kind);
        }
        states = match config.rnn_type {
            RnnKind::Gru => states.gru(&zeros, &weights, true, 1, 0.0, true, config.bidirectional, true).0,
            RnnKind::Lstm => {
                states
                    .lstm(
                        &[zeros.shallow_clone(), zeros.shallow_clone()],
                        &weights,
                        true,
                        1,
                        0.0,
                        true,
                        config.bidirectional,
                        true,
                    )
                    .0
            }
        }; // [B, T, D H]
    }
    let ends = [states.select(1, -1).narrow(1, 0, h), states.select(1, 0).narrow(1, (n_directions - 1) * h, h)];
    Tensor::cat(&ends[..n_directions as usize], 1)
}
