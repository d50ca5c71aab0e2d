//! Training steps in bfloat16 on a GPU.

use crate::baseline::fc::WeightNormLinear;
use crate::baseline::layers::Baseline;
use crate::baseline::weight_norm::{NormedWeight, WeightNormKernels};
use crate::model::{ModelInput, ModelOutput, TrainingPass};

/// Layers have their weight computed beforehand as long as this lives.
struct ComputedWeights<'a>(Vec<&'a WeightNormLinear>);

impl Drop for ComputedWeights<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|layer| drop(layer.computed.take()));
    }
}

/// The forward half of a training step in bfloat16 on a GPU.
pub(super) fn train<'a>(
    model: &'a Baseline,
    kernels: &'a WeightNormKernels,
    input: &'a ModelInput,
) -> TrainingPass<'a> {
    let layers = model.weight_norm_layers().into_iter().filter(|layer| WeightNormKernels::serve(layer));
    let weights: Vec<NormedWeight> = layers.map(|layer| kernels.forward(layer)).collect();
    let computed = ComputedWeights(weights.iter().map(|weight| weight.layer).collect());
    for NormedWeight { layer, weight, .. } in &weights {
        layer.computed.replace(Some(weight.shallow_clone()));
    }
    let pass = TrainingPass::from_forward(model.forward_by_layers(input, true));
    drop(computed);
    let ModelOutput { logits, attention } = &pass.output;
    let output = ModelOutput { logits: logits.shallow_clone(), attention: attention.shallow_clone() };
    TrainingPass::new(output, move |grad_logits| {
        pass.backward(grad_logits);
        weights.iter().for_each(|weight| kernels.add_gradients(weight));
    })
}
