//! The layers one by one, with given dropout masks.

use tch::{Kind, Tensor};

use crate::baseline::layers::Baseline;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::model::{ModelInput, ModelOutput};

/// [`Baseline::forward`] in training, line by line, with these masks instead of libtorch's dropout.
pub(super) fn plain(model: &Baseline, input: &ModelInput, masks: [&Tensor; 2]) -> ModelOutput {
    let kind = input.features.kind();
    let question = model.q_emb.forward(&model.w_emb.forward(&input.tokens).to_kind(kind), true);
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
