//! Top-down attention: the question weighs the regions of its image.

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::baseline::config::{AttentionConfig, AttentionKind};
use crate::baseline::fc::{FCNet, WeightNormLinear, dropout};
use crate::model::ModelInput;

/// Which regions matter to the question: a weight for each, adding up to 1.
#[derive(Debug)]
pub enum TopdownAttention {
    /// See [`AttentionKind::Concat`].
    Concat(ConcatAttention),
    /// See [`AttentionKind::Product`].
    Product(ProductAttention),
}

/// One layer over [region; question], dropout, then a linear layer to one score. Parameters: `nonlinear.*`, `linear.*`.
#[derive(Debug)]
pub struct ConcatAttention {
    pub(crate) nonlinear: FCNet,
    pub(crate) linear: WeightNormLinear,
    pub(crate) dropout: f64,
}

/// Projections of region and question multiplied element by element, dropout, then a linear layer to one
/// score. Parameters: `v_proj.*`, `q_proj.*`, `linear.*`.
#[derive(Debug)]
pub struct ProductAttention {
    pub(crate) v_proj: FCNet,
    pub(crate) q_proj: FCNet,
    pub(crate) linear: WeightNormLinear,
    pub(crate) dropout: f64,
}

impl TopdownAttention {
    /// An attention of the configured kind.
    pub fn new(vs: Path, question_dim: i64, feature_dim: i64, config: &AttentionConfig) -> TopdownAttention {
        let hid_dim = config.hid_dim;
        let linear = |vs: &Path| WeightNormLinear::new(vs / "linear", hid_dim, 1);
        match config.kind {
            AttentionKind::Concat => TopdownAttention::Concat(ConcatAttention {
                nonlinear: FCNet::new(&vs / "nonlinear", &[feature_dim + question_dim, hid_dim]),
                linear: linear(&vs),
                dropout: config.dropout,
            }),
            AttentionKind::Product => TopdownAttention::Product(ProductAttention {
                v_proj: FCNet::new(&vs / "v_proj", &[feature_dim, hid_dim]),
                q_proj: FCNet::new(&vs / "q_proj", &[question_dim, hid_dim]),
                linear: linear(&vs),
                dropout: config.dropout,
            }),
        }
    }

    /// The weights of the regions, [B, K], from the questions' vectors [B, question_dim] and the regions of the
    /// input.
    pub fn forward(&self, question: &Tensor, input: &ModelInput, train: bool) -> Tensor {
        let scores = match self {
            TopdownAttention::Concat(attention) => attention.scores(question, input, train),
            TopdownAttention::Product(attention) => attention.scores(question, input, train),
        };
        input.attention(&scores.to_kind(Kind::Float))
    }
}

impl TopdownAttention {
    pub(crate) fn weight_norm_layers(&self) -> Vec<&WeightNormLinear> {
        match self {
            TopdownAttention::Concat(ConcatAttention { nonlinear, linear, .. }) => {
                nonlinear.layers.iter().chain([linear]).collect()
            }
            TopdownAttention::Product(ProductAttention { v_proj, q_proj, linear, .. }) => {
                v_proj.layers.iter().chain(&q_proj.layers).chain([linear]).collect()
            }
        }
    }
}

impl ConcatAttention {
    fn scores(&self, question: &Tensor, input: &ModelInput, train: bool) -> Tensor {
        // The product with [region; question] is the sum of two products. The regions' is computed once per image.
        let [layer] = &self.nonlinear.layers[..] else { panic!("one layer") };
        let kind = question.kind();
        let (weight, bias) = (layer.weight().to_kind(kind), layer.bias.to_kind(kind));
        let (feature_dim, question_dim) = (input.features.size()[2], question.size()[1]);
        let v_share = input.features.linear(&weight.narrow(1, 0, feature_dim), None::<Tensor>); // [N, K, hid_dim]
        let q_share = question.linear(&weight.narrow(1, feature_dim, question_dim), Some(&bias)); // [B, hid_dim]
        let v_share = input.of_questions(&v_share); // [B, K, hid_dim]
        let joint = (v_share + q_share.unsqueeze(1)).relu(); // [B, K, hid_dim]
        self.linear.forward(&dropout(&joint, self.dropout, train)).squeeze_dim(2)
    }
}

impl ProductAttention {
    fn scores(&self, question: &Tensor, input: &ModelInput, train: bool) -> Tensor {
        // The most expensive step of the model depends only on the image, so it is computed once per image.
        let regions = input.of_questions(&self.v_proj.forward(&input.features)); // [B, K, hid_dim]
        let question = self.q_proj.forward(question).unsqueeze(1); // [B, 1, hid_dim]
        let joint = dropout(&(regions * question), self.dropout, train);
        self.linear.forward(&joint).squeeze_dim(2)
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    use super::*;

    /// The article applies its dropout in every kind of attention.
    #[test]
    fn both_kinds_have_dropout_in_training_and_nowhere_else() {
        let input = ModelInput {
            tokens: Tensor::zeros([3, 1], (Kind::Int64, Device::Cpu)),
            features: Tensor::randn([2, 4, 5], (Kind::Float, Device::Cpu)),
            boxes: Tensor::zeros([2, 4, 4], (Kind::Float, Device::Cpu)),
            image_rows: Tensor::from_slice(&[0i64, 1, 1]),
            padding: None,
            dropout: None,
            order: None,
        };
        let question = Tensor::randn([3, 6], (Kind::Float, Device::Cpu));
        for kind in [AttentionKind::Concat, AttentionKind::Product] {
            for dropout in [0.0, 0.5] {
                let vs = VarStore::new(Device::Cpu);
                let config = AttentionConfig { kind, hid_dim: 64, dropout };
                let attention = TopdownAttention::new(vs.root(), 6, 5, &config);
                let weights = |train| attention.forward(&question, &input, train);
                assert!(weights(false).equal(&weights(false)), "{kind:?}");
                assert_eq!(weights(true).equal(&weights(true)), dropout == 0.0, "{kind:?} {dropout}");
                assert_eq!(weights(true).equal(&weights(false)), dropout == 0.0, "{kind:?} {dropout}");
            }
        }
    }
}
