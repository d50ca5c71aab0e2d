//! The article's model, [`Baseline`], and its layers.
//!
//! On a CPU, its passes alternate between libtorch's threads and rayon's. libtorch's threads spin for milliseconds
//! after each product, which costs 5 to 15 %, and far more if other processes need the cores: start programs with
//! `OMP_WAIT_POLICY=passive`, as `vqa` does for itself.

pub(crate) mod config;
pub(crate) mod cpu;
pub(crate) mod fc;
pub(crate) mod gpu;
pub(crate) mod language_model;
pub(crate) mod layers;
pub(crate) mod topdown_attention;

use tch::{Device, Kind, Tensor};

use crate::baseline::gpu::kernels::Kernels;
use crate::feed::order::SharedStates;
use crate::model::{DropoutSeed, ModelInput, ModelOutput, TrainingPass, VqaModel};

pub use self::{
    config::{AttentionConfig, AttentionKind, ClassifierConfig, LanguageModelConfig, ModelConfig, RnnKind},
    fc::{FCNet, SimpleClassifier, WeightNormLinear},
    language_model::{QuestionEmbedding, WordEmbedding},
    layers::Baseline,
    topdown_attention::{ConcatAttention, ProductAttention, TopdownAttention},
};

impl VqaModel for Baseline {
    fn forward(&self, input: &ModelInput, train: bool) -> ModelOutput {
        self.forward_by_layers(input, train)
    }

    fn infer(&self, input: &ModelInput) -> ModelOutput {
        if cpu::serves(input) {
            return cpu::infer(self, input);
        }
        tch::no_grad(|| self.forward(input, false))
    }

    fn encode_images(&self, features: &Tensor) -> Option<Tensor> {
        cpu::serves_images(features).then(|| cpu::encode_images(self, features))
    }

    fn infer_encoded(&self, input: &ModelInput, encoded: &Tensor) -> ModelOutput {
        if cpu::serves(input) {
            return cpu::infer_encoded(self, input, encoded);
        }
        self.infer(input)
    }

    fn can_be_recorded(&self) -> bool {
        // cuDNN keeps a random state of its own for the dropout between layers.
        self.q_emb.config.dropout == 0.0
    }

    fn shared_states(&self) -> Option<SharedStates> {
        let reads_both_ways = self.q_emb.config.bidirectional;
        let shared = if reads_both_ways { SharedStates::Nothing } else { SharedStates::Beginnings };
        gpu::serves_model(self).then_some(shared)
    }

    fn gradient_order(&self) -> &[&[&str]] {
        &[&["classifier", "q_net", "v_net"], &["v_att"]]
    }

    fn train<'a>(&'a self, input: &'a ModelInput) -> TrainingPass<'a> {
        if cpu::serves(input) {
            let seed = input.dropout.unwrap_or_else(|| {
                // Drawn by libtorch, so that its seed determines this dropout too.
                let seed = Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]);
                DropoutSeed { seed: seed as u64, first: 0 }
            });
            return cpu::train(self, input, seed);
        }
        let device = input.features.device();
        if device.is_cuda()
            && gpu::serves(self, input)
            && let Some(kernels) = self.kernels.get_or_init(|| Kernels::load(device))
        {
            return gpu::train(self, kernels, input, gpu::draw_seed(device));
        }
        TrainingPass::from_forward(self.forward(input, true))
    }
}
