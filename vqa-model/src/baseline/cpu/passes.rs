//! The full passes: question encoder, attention and classifier, forward and backward.

use half::bf16;
use tch::{Device, Kind, Tensor};
use vqa_data::random::split_mix_64;

use crate::baseline::config::RnnKind;
use crate::baseline::cpu::attention::{self, AttentionPass};
use crate::baseline::cpu::cell::Cell;
use crate::baseline::cpu::classifier::ClassifierPass;
use crate::baseline::cpu::gru::Gru;
use crate::baseline::cpu::lstm::Lstm;
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::question_encoder::EncoderPass;
use crate::baseline::cpu::steps::Unrolled;
use crate::baseline::cpu::texts::DistinctTexts;
use crate::baseline::layers::Baseline;
use crate::cpu::slice::Number;
use crate::model::{DropoutSeed, ModelInput, ModelOutput, TrainingPass};

/// Whether these passes can handle an input: one on a CPU, in float32 or bfloat16, that isn't empty.
pub(crate) fn serves(input: &ModelInput) -> bool {
    serves_images(&input.features) && input.tokens.numel() > 0
}

/// Whether [`encode_images`] can handle these features.
pub(crate) fn serves_images(features: &Tensor) -> bool {
    features.device() == Device::Cpu && matches!(features.kind(), Kind::Float | Kind::BFloat16) && features.numel() > 0
}

/// Computes what attention compares with questions, [N, K, A], from the features of the regions.
pub(crate) fn encode_images(model: &Baseline, features: &Tensor) -> Tensor {
    tch::no_grad(|| match features.kind() {
        Kind::BFloat16 => attention::encode_images::<bf16>(&model.v_att, features),
        _ => attention::encode_images::<f32>(&model.v_att, features),
    })
}

/// Computes logits and attention, without dropout.
pub(crate) fn infer(model: &Baseline, input: &ModelInput) -> ModelOutput {
    pass(model, input, None, None).output
}

/// [`infer`], given the output of [`encode_images`].
pub(crate) fn infer_encoded(model: &Baseline, input: &ModelInput, encoded: &Tensor) -> ModelOutput {
    pass(model, input, Some(encoded), None).output
}

/// Computes logits and attention with dropout, which the seed determines, and prepares the backward pass.
pub(crate) fn train<'a>(model: &'a Baseline, input: &'a ModelInput, seed: DropoutSeed) -> TrainingPass<'a> {
    pass(model, input, None, Some(seed))
}

fn pass<'a>(
    model: &'a Baseline,
    input: &ModelInput,
    encoded: Option<&Tensor>,
    seed: Option<DropoutSeed>,
) -> TrainingPass<'a> {
    match (input.features.kind(), model.q_emb.config.rnn_type) {
        (Kind::BFloat16, RnnKind::Gru) => pass_with::<bf16, Gru>(model, input, encoded, seed),
        (Kind::BFloat16, RnnKind::Lstm) => pass_with::<bf16, Lstm>(model, input, encoded, seed),
        (_, RnnKind::Gru) => pass_with::<f32, Gru>(model, input, encoded, seed),
        (_, RnnKind::Lstm) => pass_with::<f32, Lstm>(model, input, encoded, seed),
    }
}

fn pass_with<'a, T: Number, C: Cell + 'a>(
    model: &'a Baseline,
    input: &ModelInput,
    encoded: Option<&Tensor>,
    seed: Option<DropoutSeed>,
) -> TrainingPass<'a> {
    let (output, pass) = tch::no_grad(|| ForwardPass::<T, C>::forward(model, input, encoded, seed));
    TrainingPass::in_groups(output, move |grad_logits, complete| {
        tch::no_grad(|| pass.backward(grad_logits, complete));
    })
}

/// A seed for the dropout of each part, so that their masks are independent.
pub(super) struct Seeds {
    pub(super) attention: Option<DropoutSeed>,
    pub(super) classifier: Option<DropoutSeed>,
    pub(super) encoder: Option<u64>,
}

impl Seeds {
    pub(super) fn new(seed: Option<DropoutSeed>) -> Seeds {
        let next = |DropoutSeed { seed, first }| DropoutSeed { seed: split_mix_64(!seed), first };
        let classifier = seed.map(next);
        Seeds { attention: seed, classifier, encoder: classifier.map(|seed| next(seed).seed) }
    }
}

/// A forward pass, with what its backward pass needs: B questions of L distinct texts, about N images of K regions.
struct ForwardPass<'a, T, C> {
    texts: DistinctTexts,
    encoder: EncoderPass<'a, T, C>,
    question: Tensor, // [L, question_dim]
    attention: AttentionPass<'a, T>,
    classifier: ClassifierPass<'a, T>,
}

impl<'a, T: Number, C: Cell> ForwardPass<'a, T, C> {
    fn forward(
        model: &'a Baseline,
        input: &ModelInput,
        encoded: Option<&Tensor>,
        seed: Option<DropoutSeed>,
    ) -> (ModelOutput, ForwardPass<'a, T, C>) {
        let [_, n_tokens] = input.tokens.size()[..] else { panic!("tokens are [B, T]") };
        let tokens =
            |tokens: &Tensor| Vec::<i64>::try_from(tokens.contiguous().view([-1])).expect("a flat tensor of integers");
        let prefixes = PrefixTree::new(&tokens(&input.tokens), n_tokens as usize); // L leaves
        let texts = DistinctTexts::new(&prefixes); // [B] of L
        let unrolled = if model.q_emb.config.bidirectional {
            Unrolled::bidirectional(&prefixes, &PrefixTree::new(&tokens(&input.tokens.flip([1])), n_tokens as usize))
        } else {
            Unrolled::unidirectional(&prefixes)
        };
        let seeds = Seeds::new(seed);

        let (question, encoder) = EncoderPass::forward(&model.w_emb, &model.q_emb, &prefixes, unrolled, seeds.encoder); // [L, H]
        let (attention, attended, attention_pass) =
            AttentionPass::forward(&model.v_att, input, encoded, &texts, &question, seeds.attention); // [B, K], [B, D]
        let (logits, classifier) = ClassifierPass::forward(model, &texts, &question, attended, seeds.classifier); // [B, n_answers]

        let pass = ForwardPass { texts, encoder, question, attention: attention_pass, classifier };
        (ModelOutput { logits, attention }, pass)
    }

    /// Adds to the gradients of all parameters, given the gradient of the logits, [B, n_answers] float32.
    fn backward(self, grad_logits: &Tensor, complete: &mut dyn FnMut(usize)) {
        let (texts, question) = (&self.texts, &self.question);
        let [grad_by_fusion, grad_attended] = self.classifier.backward(texts, question, grad_logits); // [L, H], [B, D]
        complete(0);
        let grad_by_attention = self.attention.backward(texts, question, &grad_attended); // [L, H]
        complete(1);
        self.encoder.backward(&(grad_by_fusion + grad_by_attention)); // [L, H]
    }
}
