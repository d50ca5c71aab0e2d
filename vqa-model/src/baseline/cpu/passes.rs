//! The passes as a whole: question encoder, attention, classifier, and back.

use half::bf16;
use tch::{Device, Kind, Tensor};
use vqa_data::random::split_mix_64;

use crate::baseline::cpu::attention::{self, AttentionPass};
use crate::baseline::cpu::classifier::ClassifierPass;
use crate::baseline::cpu::gru::{self, Gru};
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::question_encoder::QuestionEncoder;
use crate::baseline::cpu::slice::Number;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::baseline::layers::Baseline;
use crate::model::{DropoutSeed, ModelInput, ModelOutput, TrainingPass};

/// Whether the passes are written out for a model and an input: each part must be, and there must be something
/// to compute.
pub(crate) fn serves(model: &Baseline, input: &ModelInput) -> bool {
    serves_images(model, &input.features) && input.tokens.numel() > 0 && gru::serves(&model.q_emb.config)
}

/// Whether that is so of what is computed of the images alone.
pub(crate) fn serves_images(model: &Baseline, features: &Tensor) -> bool {
    features.device() == Device::Cpu
        && matches!(features.kind(), Kind::Float | Kind::BFloat16)
        && features.numel() > 0
        && attention::serves(&model.v_att)
}

/// The projections of the regions that attention compares with questions, [N, K, A].
pub(crate) fn encode_images(model: &Baseline, features: &Tensor) -> Tensor {
    tch::no_grad(|| match features.kind() {
        Kind::BFloat16 => attention::encode_images::<bf16>(&model.v_att, features),
        _ => attention::encode_images::<f32>(&model.v_att, features),
    })
}

/// Logits and attention, without dropout.
pub(crate) fn infer(model: &Baseline, input: &ModelInput) -> ModelOutput {
    pass(model, input, None, None).output
}

/// [`infer`], with what [`encode_images`] has made of the images.
pub(crate) fn infer_encoded(model: &Baseline, input: &ModelInput, encoded: &Tensor) -> ModelOutput {
    pass(model, input, Some(encoded), None).output
}

/// Logits and attention with dropout, which follows from the seed, and the backward pass.
pub(crate) fn train<'a>(model: &'a Baseline, input: &'a ModelInput, seed: DropoutSeed) -> TrainingPass<'a> {
    pass(model, input, None, Some(seed))
}

fn pass<'a>(
    model: &'a Baseline,
    input: &ModelInput,
    encoded: Option<&Tensor>,
    seed: Option<DropoutSeed>,
) -> TrainingPass<'a> {
    match input.features.kind() {
        Kind::BFloat16 => pass_with(Gru::<bf16>::new(&model.w_emb, &model.q_emb), model, input, encoded, seed),
        _ => pass_with(Gru::<f32>::new(&model.w_emb, &model.q_emb), model, input, encoded, seed),
    }
}

fn pass_with<'a, T: Number>(
    encoder: impl QuestionEncoder<T> + 'a,
    model: &'a Baseline,
    input: &ModelInput,
    encoded: Option<&Tensor>,
    seed: Option<DropoutSeed>,
) -> TrainingPass<'a> {
    let (output, pass) = tch::no_grad(|| ForwardPass::forward(encoder, model, input, encoded, seed));
    TrainingPass::new(output, move |grad_logits| tch::no_grad(|| pass.backward(grad_logits)))
}

/// A forward pass, with what its backward pass needs: B questions of L distinct texts, about N images of K regions.
struct ForwardPass<'a, T: Number, E: QuestionEncoder<T>> {
    tree: PrefixTree,
    texts: DistinctTexts,
    encoder: E,
    encoder_saved: E::Saved,
    question: Tensor, // [L, H]
    attention: AttentionPass<'a, T>,
    classifier: ClassifierPass<'a, T>,
}

impl<'a, T: Number, E: QuestionEncoder<T>> ForwardPass<'a, T, E> {
    fn forward(
        encoder: E,
        model: &'a Baseline,
        input: &ModelInput,
        encoded: Option<&Tensor>,
        seed: Option<DropoutSeed>,
    ) -> (ModelOutput, Self) {
        let [_, n_tokens] = input.tokens.size()[..] else { panic!("tokens are [B, T]") };
        let tokens = Vec::<i64>::try_from(input.tokens.contiguous().view([-1])).expect("a flat tensor of integers");
        let tree = PrefixTree::new(&tokens, n_tokens as usize); // L leaves
        let texts = DistinctTexts::new(&tree); // [B] of L

        let (question, encoder_saved) = encoder.forward(&tree, seed.is_some()); // [L, H]
        let (attention, attended, attention_pass) =
            AttentionPass::forward(&model.v_att, input, encoded, &texts, &question, seed); // [B, K], [B, D]
        // Another seed, so that the two dropouts are independent.
        let seed = seed.map(|DropoutSeed { seed, first }| DropoutSeed { seed: split_mix_64(!seed), first });
        let (logits, classifier) = ClassifierPass::forward(model, &texts, &question, attended, seed); // [B, n_answers]

        let pass = ForwardPass { tree, texts, encoder, encoder_saved, question, attention: attention_pass, classifier };
        (ModelOutput { logits, attention }, pass)
    }

    /// Adds to the gradients of all parameters, given that of the logits, [B, n_answers] float32.
    fn backward(self, grad_logits: &Tensor) {
        let (texts, question) = (&self.texts, &self.question);
        let [grad_by_fusion, grad_attended] = self.classifier.backward(texts, question, grad_logits); // [L, H], [B, D]
        let grad_by_attention = self.attention.backward(texts, question, &grad_attended); // [L, H]
        let grad_question = grad_by_fusion + grad_by_attention; // [L, H]
        self.encoder.backward(&self.tree, self.encoder_saved, &grad_question);
    }
}
