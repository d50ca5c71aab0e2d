//! The passes as a whole.

use std::sync::Once;

use half::bf16;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};
use vqa_data::random::split_mix_64;

use crate::baseline::config::RnnKind;
use crate::baseline::cpu::attention::{Asked, Masks};
use crate::baseline::cpu::gru::{Gru, GruPass};
use crate::baseline::cpu::kernels;

use crate::baseline::cpu::linear::{Linear, add, add_weight_gradient, gradient_of, relu_backward};
use crate::baseline::cpu::prefix_tree::PrefixTree;
use crate::baseline::cpu::slice::{Number, numbers_mut};
use crate::baseline::fc::FCNet;
use crate::baseline::language_model::QuestionEmbedding;
use crate::baseline::layers::Baseline;
use crate::baseline::topdown_attention::TopdownAttention;
use crate::model::{ModelInput, ModelOutput, TrainingPass};

/// Whether this way is there for a model and an input: a GRU of one layer and direction and attention by products, on a CPU.
pub(crate) fn serves(model: &Baseline, input: &ModelInput) -> bool {
    let QuestionEmbedding { config, .. } = &model.q_emb;
    let [b, t] = sizes(&input.tokens);
    input.features.device() == Device::Cpu
        && config.rnn_type == RnnKind::Gru
        && (config.n_layers, config.bidirectional) == (1, false)
        && matches!(model.v_att, TopdownAttention::Product(_))
        && matches!(input.features.kind(), Kind::Float | Kind::BFloat16)
        && b > 0
        && t > 0
        && input.features.numel() > 0
}

/// Keeps libtorch's threads from spinning while rayon's have work. Its libgomp lets each thread spin for milliseconds
/// after a product, unless it manages more threads than there are cores: then it gives way at once. So each of rayon's threads asks
/// it for help once, which it never needs. Worth 5 to 15 % on two cores.
fn share_cores() {
    static SHARED: Once = Once::new();
    SHARED.call_once(|| {
        rayon::broadcast(|_| {
            const ENOUGH_FOR_TWO_THREADS: i64 = 1 << 17;
            let _ = Tensor::ones([ENOUGH_FOR_TWO_THREADS], (Kind::Float, Device::Cpu)).exp_();
        });
    });
}

/// What the model says, without dropout.
pub(crate) fn infer(model: &Baseline, input: &ModelInput) -> ModelOutput {
    share_cores();
    tch::no_grad(|| match input.features.kind() {
        Kind::BFloat16 => Pass::<bf16>::forward(model, input, None).0,
        _ => Pass::<f32>::forward(model, input, None).0,
    })
}

/// What the model says with dropout, of which the seed decides, and the way back.
pub(crate) fn train<'a>(model: &'a Baseline, input: &'a ModelInput, seed: u64) -> TrainingPass<'a> {
    fn train<'a, T: Number>(model: &'a Baseline, input: &'a ModelInput, seed: u64) -> TrainingPass<'a> {
        let (output, pass) = tch::no_grad(|| Pass::<T>::forward(model, input, Some(seed)));
        TrainingPass::new(output, move |of_logits| tch::no_grad(|| pass.backward(of_logits)))
    }
    share_cores();
    match input.features.kind() {
        Kind::BFloat16 => train::<bf16>(model, input, seed),
        _ => train::<f32>(model, input, seed),
    }
}

/// A forward pass, with what its backward pass needs. B questions of L distinct texts are about N images of K regions; the
/// numbers are T where no other type is said.
struct Pass<'a, T> {
    model: &'a Baseline,
    input: &'a ModelInput,
    image_rows: Vec<i64>,
    tree: PrefixTree,
    leaves: Tensor, // [B], each question's text
    gru: Gru<'a>,
    gru_pass: GruPass<T>,
    question: Tensor, // [L, H]
    q_proj: Linear<'a>,
    q_projected: Tensor, // [L, A]
    v_proj: Linear<'a>,
    v_projected: Tensor, // [N K, A]
    masks: Option<Masks>,
    /// What each question looks for: its projection times the weights of the last layer, [B, A] float32.
    wanted: Tensor,
    attention: Tensor, // [B, K] float32
    attended: Tensor,  // [B, D]
    q_net: Linear<'a>,
    q_joint: Tensor, // [L, H]
    v_net: Linear<'a>,
    v_joint: Tensor, // [B, H]
    joint: Tensor,   // [B, H]
    hidden: Linear<'a>,
    activations: Tensor, // [B, M], after ReLU and dropout
    hidden_scale: f32,
    output: Linear<'a>,
}

impl<'a, T: Number> Pass<'a, T> {
    fn forward(model: &'a Baseline, input: &'a ModelInput, seed: Option<u64>) -> (ModelOutput, Pass<'a, T>) {
        let TopdownAttention::Product(att) = &model.v_att else { panic!("attention by products") };
        let [n, k, d] = sizes(&input.features);
        let [_, n_tokens] = sizes(&input.tokens);
        let image_rows = to_vec(&input.image_rows);
        let asked = Asked { image_rows: &image_rows, n_images: n as usize, n_regions: k as usize };

        let tree = PrefixTree::new(&to_vec(&input.tokens), n_tokens as usize);
        let leaves = Tensor::from_slice(tree.leaves());
        let gru = Gru::new::<T>(&model.w_emb, &model.q_emb.weights);
        let (question, gru_pass) = gru.forward(&tree, seed.is_some());
        let question = question.to_kind(T::KIND);

        let [q_proj, v_proj] = [&att.q_proj, &att.v_proj].map(only_layer::<T>);
        let q_projected = q_proj.forward_relu::<T>(&question);
        let features = input.features.contiguous();
        let v_projected = v_proj.forward_relu::<T>(&features.view([n * k, d]));
        let attention_dim = v_projected.size()[1];
        let masks = seed
            .filter(|_| att.dropout > 0.0)
            .map(|seed| Masks::draw(seed, image_rows.len() * k as usize, attention_dim as usize, att.dropout));
        let scale = masks.as_ref().map_or(1.0, |masks| f64::from(masks.scale));
        let weights = att.linear.weight() * scale; // [1, A]
        let wanted = q_projected.to_kind(Kind::Float).index_select(0, &leaves) * weights;
        let scores = asked.dots::<T>(&v_projected.view([n, k, attention_dim]), &wanted, masks.as_ref());
        let attention = input.attention(&(scores + &att.linear.bias)); // [B, K]
        let attended = asked.weighted_sums::<T>(&features, &attention, None).to_kind(T::KIND); // [B, D]

        let [q_net, v_net] = [&model.q_net, &model.v_net].map(only_layer::<T>);
        let q_joint = q_net.forward_relu::<T>(&question);
        let v_joint = v_net.forward_relu::<T>(&attended);
        let joint = q_joint.index_select(0, &leaves) * &v_joint;
        let hidden = Linear::new::<T>(&model.classifier.hidden);
        let mut activations = hidden.forward_relu::<T>(&joint);
        let dropout = model.classifier.dropout;
        let mut hidden_scale = 1.0;
        if let Some(seed) = seed.filter(|_| dropout > 0.0) {
            let [rows, len] = sizes(&activations).map(|n| n as usize);
            let masks = Masks::draw(split_mix_64(!seed), rows, len, dropout);
            hidden_scale = masks.scale;
            numbers_mut::<T>(&mut activations).par_chunks_mut(len).enumerate().for_each(|(b, row)| {
                kernels::dropout(row, masks.row(b), masks.scale);
            });
        }
        let output = Linear::new::<T>(&model.classifier.output);
        let logits = output.forward::<T>(&activations).to_kind(Kind::Float);

        let said = ModelOutput { logits, attention: attention.shallow_clone() };
        let pass = Pass {
            model,
            input,
            image_rows,
            tree,
            leaves,
            gru,
            gru_pass,
            question,
            q_proj,
            q_projected,
            v_proj,
            v_projected,
            masks,
            wanted,
            attention,
            attended,
            q_net,
            q_joint,
            v_net,
            v_joint,
            joint,
            hidden,
            activations,
            hidden_scale,
            output,
        };
        (said, pass)
    }

    /// Adds to the gradients of all parameters, from that of the logits, [B, n_answers] float32.
    fn backward(self, of_logits: &Tensor) {
        let TopdownAttention::Product(att) = &self.model.v_att else { panic!("attention by products") };
        let [n, k, d] = sizes(&self.input.features);
        let asked = Asked { image_rows: &self.image_rows, n_images: n as usize, n_regions: k as usize };
        let features = self.input.features.contiguous();
        // From questions to their texts: [B, dim] to [L, dim].
        let by_text = |of_questions: &Tensor| {
            let [l, _] = sizes(&self.question);
            let zeros = Tensor::zeros([l, of_questions.size()[1]], (Kind::Float, Device::Cpu));
            zeros.index_add(0, &self.leaves, &of_questions.to_kind(Kind::Float)).to_kind(T::KIND)
        };

        let of_logits = of_logits.to_kind(T::KIND);
        self.output.backward::<T>(&self.activations, &of_logits);
        let mut of_hidden = self.output.input_gradient(&of_logits);
        relu_backward::<T>(&mut of_hidden, &self.activations, self.hidden_scale);
        self.hidden.backward::<T>(&self.joint, &of_hidden);
        let of_joint = self.hidden.input_gradient(&of_hidden); // [B, H]

        let mut of_v_joint = &of_joint * self.q_joint.index_select(0, &self.leaves);
        relu_backward::<T>(&mut of_v_joint, &self.v_joint, 1.0);
        self.v_net.backward::<T>(&self.attended, &of_v_joint);
        let of_attended = self.v_net.input_gradient(&of_v_joint).to_kind(Kind::Float); // [B, D]
        let mut of_q_joint = by_text(&(of_joint * &self.v_joint));
        relu_backward::<T>(&mut of_q_joint, &self.q_joint, 1.0);
        self.q_net.backward::<T>(&self.question, &of_q_joint);
        let mut of_question = self.q_net.input_gradient(&of_q_joint).to_kind(Kind::Float); // [L, H]

        // The way back through softmax, whose derivative lets no change of all scores alike through.
        let of_attention = asked.dots::<T>(&features, &of_attended, None); // [B, K]
        let weighted = &of_attention * &self.attention;
        let of_scores = &weighted - &self.attention * weighted.sum_dim_intlist(1, true, Kind::Float); // [B, K]
        add(&gradient_of(&att.linear.bias), &of_scores.sum(Kind::Float));
        let v_projected = self.v_projected.view([n, k, -1]); // [N, K, A]
        let of_wanted = asked.weighted_sums::<T>(&v_projected, &of_scores, self.masks.as_ref()); // [B, A]
        let mut of_v_projected = asked.sums_over_questions::<T>(&self.wanted, &of_scores, self.masks.as_ref());
        relu_backward::<T>(&mut of_v_projected, &v_projected, 1.0);
        self.v_proj.backward::<T>(&features.view([n * k, d]), &of_v_projected.view([n * k, -1]));

        let scale = self.masks.as_ref().map_or(1.0, |masks| f64::from(masks.scale));
        let q_projected = self.q_projected.to_kind(Kind::Float).index_select(0, &self.leaves); // [B, A]
        let of_weights = (&of_wanted * q_projected).sum_dim_intlist(0, true, Kind::Float) * scale; // [1, A]
        add_weight_gradient::<f32>(&att.linear, &of_weights);
        let mut of_q_projected = by_text(&(of_wanted * att.linear.weight() * scale));
        relu_backward::<T>(&mut of_q_projected, &self.q_projected, 1.0);
        self.q_proj.backward::<T>(&self.question, &of_q_projected);
        of_question += self.q_proj.input_gradient(&of_q_projected).to_kind(Kind::Float);
        self.gru.backward(&self.tree, self.gru_pass, &of_question);
    }
}

fn only_layer<T: Number>(net: &FCNet) -> Linear<'_> {
    let [layer] = &net.layers[..] else { panic!("one layer") };
    Linear::new::<T>(layer)
}

fn sizes<const N: usize>(tensor: &Tensor) -> [i64; N] {
    tensor.size().try_into().expect("as many dimensions as the docs say")
}

fn to_vec(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.contiguous().view([-1])).expect("a tensor of integers")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use tch::nn::VarStore;

    use super::*;
    use crate::baseline::config::{AttentionConfig, ClassifierConfig, LanguageModelConfig, ModelConfig};
    use crate::model::{DataDims, VqaModel};

    const DIMS: DataDims = DataDims { n_words: 9, n_answers: 11, feature_dim: 37 };
    const B: i64 = 40;
    const SEED: u64 = 77;

    /// libtorch has one generator for all tests.
    fn generator() -> MutexGuard<'static, ()> {
        static GENERATOR: Mutex<()> = Mutex::new(());
        GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Widths that are no multiples of the kernels' lanes, and no two alike.
    fn model(dropout: [f64; 2]) -> (VarStore, Baseline) {
        tch::manual_seed(3);
        let vs = VarStore::new(Device::Cpu);
        let config = ModelConfig {
            hid_dim: 23,
            lm: LanguageModelConfig { word_emb_dim: 7, ..LanguageModelConfig::default() },
            topdown_att: AttentionConfig { hid_dim: 41, dropout: dropout[0], ..AttentionConfig::default() },
            mlp: ClassifierConfig { hid_dim: 50, dropout: dropout[1] },
            ..ModelConfig::default()
        };
        let model = Baseline::new(vs.root(), &config, DIMS);
        // Biases that are 0 and norms that are 1 would hide mistakes.
        let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        tch::no_grad(|| {
            for (name, mut parameter) in variables {
                if name.ends_with("weight_g") || name.contains("bias") {
                    let _ = parameter.g_add_(&(Tensor::rand_like(&parameter) * 0.7));
                }
            }
        });
        (vs, model)
    }

    /// Questions that begin alike, are the same, or are nothing but padding, about fewer images than questions, some of
    /// which have fewer regions and one of which nobody asks about.
    fn input(kind: Kind) -> ModelInput {
        tch::manual_seed(4);
        let options = (Kind::Int64, Device::Cpu);
        let words = Tensor::randint(3, [B, 6], options);
        let is_padding = Tensor::arange(6, options).unsqueeze(0).lt_tensor(&Tensor::randint(7, [B, 1], options));
        let counts = Tensor::from_slice(&[5i64, 3, 5, 1, 5, 4, 5]).unsqueeze(1);
        let padding = Tensor::arange(5, options).unsqueeze(0).ge_tensor(&counts);
        ModelInput {
            tokens: words.masked_fill(&is_padding, DIMS.n_words),
            features: Tensor::rand([7, 5, DIMS.feature_dim], (Kind::Float, Device::Cpu)).to_kind(kind),
            boxes: Tensor::zeros([7, 5, 4], (Kind::Float, Device::Cpu)),
            image_rows: Tensor::randint(6, [B], options),
            padding: Some(padding),
        }
    }

    /// A mask as numbers, [rows, len]: 0 for what is dropped, the scale for what is kept.
    fn dense(masks: &Masks, rows: i64, len: i64) -> Tensor {
        let numbers: Vec<f32> = (0..rows as usize)
            .flat_map(|row| (0..len as usize).map(move |i| (row, i)))
            .map(|(row, i)| if masks.row(row)[i / 16] >> (i % 16) & 1 != 0 { masks.scale } else { 0.0 })
            .collect();
        Tensor::from_slice(&numbers).view([rows, len])
    }

    /// [`Baseline::forward`] in training, line by line, with these masks instead of drawn ones.
    fn plain(model: &Baseline, input: &ModelInput, masks: [&Tensor; 2]) -> ModelOutput {
        let TopdownAttention::Product(att) = &model.v_att else { unreachable!() };
        let kind = input.features.kind();
        let question = model.q_emb.forward(&model.w_emb.forward(&input.tokens).to_kind(kind), true);
        let regions = input.features.index_select(0, &input.image_rows); // [B, K, D]
        let product = att.v_proj.forward(&regions) * att.q_proj.forward(&question).unsqueeze(1);
        let scores = att.linear.forward(&(product * masks[0].to_kind(kind))).squeeze_dim(2);
        let attention = input.attention(&scores.to_kind(Kind::Float));
        let attended = (attention.unsqueeze(2) * regions).sum_dim_intlist(1, false, Kind::Float).to_kind(kind);
        let joint = model.q_net.forward(&question) * model.v_net.forward(&attended);
        let hidden = model.classifier.hidden.forward(&joint).relu() * masks[1].to_kind(kind);
        ModelOutput { logits: model.classifier.output.forward(&hidden).to_kind(Kind::Float), attention }
    }

    /// Tensors by name.
    type Found = HashMap<String, Tensor>;

    /// Takes the gradients away.
    fn gradients(vs: &VarStore) -> Found {
        let taken = vs.variables().into_iter().map(|(name, parameter)| (name, parameter.grad().copy())).collect();
        vs.variables().into_values().for_each(|mut parameter| parameter.zero_grad());
        taken
    }

    /// What rounding in a tensor is to be seen against: its largest number. A layer's g has but one, the sum of its v's
    /// share; there it is the norm of what is summed.
    fn scale(all: &Found, name: &str) -> f64 {
        match name.strip_suffix("weight_g") {
            Some(layer) => all[&format!("{layer}weight_v")].norm().double_value(&[]),
            None => all[name].abs().max().double_value(&[]),
        }
    }

    /// The largest difference, as a share of a scale.
    fn off(a: &Tensor, b: &Tensor, scale: f64) -> f64 {
        (a - b).abs().max().double_value(&[]) / scale
    }

    /// Logits, attention and gradients of the fused way, of the plain one with the same masks, and of the plain one in
    /// float32.
    fn three_ways(dropout: [f64; 2], kind: Kind) -> [Found; 3] {
        let _generator = generator();
        let (vs, model) = model(dropout);
        let input = input(kind);
        assert!(serves(&model, &input));
        let of_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
        let found = |output: [Tensor; 2]| -> Found {
            let [logits, attention] = output;
            let mut found = gradients(&vs);
            assert_eq!(found.len(), 26);
            // No change of all scores alike changes a softmax: its gradient is rounding and nothing else.
            found.remove("v_att.linear.bias");
            found.extend([("logits".to_owned(), logits), ("attention".to_owned(), attention)]);
            found
        };

        let pass = train(&model, &input, SEED);
        let output = [pass.output.logits.copy(), pass.output.attention.copy()];
        pass.backward(&of_logits);
        let fused = found(output);

        let masks = |rows: i64, len: i64, seed: u64, p: f64| match p {
            0.0 => Tensor::ones([rows, len], (Kind::Float, Device::Cpu)),
            p => dense(&Masks::draw(seed, rows as usize, len as usize, p), rows, len),
        };
        let of_products = masks(B * 5, 41, SEED, dropout[0]).view([B, 5, 41]);
        let of_hidden = masks(B, 50, split_mix_64(!SEED), dropout[1]);
        let plainly = |input: &ModelInput| {
            let ModelOutput { logits, attention } = plain(&model, input, [&of_products, &of_hidden]);
            (&logits * &of_logits).sum(Kind::Float).backward();
            found([logits.detach(), attention.detach()])
        };
        let same = plainly(&input);
        let exact = plainly(&ModelInput { features: input.features.to_kind(Kind::Float), ..input });
        [fused, same, exact]
    }

    #[test]
    fn training_is_the_plain_way_with_the_same_masks() {
        for dropout in [[0.2, 0.5], [0.0, 0.5], [0.2, 0.0], [0.0, 0.0]] {
            let [fused, plain, _] = three_ways(dropout, Kind::Float);
            for (name, expected) in &plain {
                let off = off(&fused[name], expected, scale(&plain, name));
                assert!(off < 2e-5, "{name} is off by {off} with dropout {dropout:?}");
            }
        }
    }

    /// What bfloat16's 8 bits cost is no more than in the plain way.
    #[test]
    fn bf16_is_as_near_as_the_plain_way() {
        let [fused, plain, exact] = three_ways([0.2, 0.5], Kind::BFloat16);
        for (name, exact) in &exact {
            let scale = scale(&plain, name);
            let (found, allowed) = (off(&fused[name], exact, scale), off(&plain[name], exact, scale));
            assert!(found < 2.0 * allowed.max(0.01), "{name} is off by {found}, in the plain way by {allowed}");
        }
    }

    #[test]
    fn gradients_add_up() {
        let _generator = generator();
        let (vs, model) = model([0.2, 0.5]);
        let input = input(Kind::Float);
        let of_logits = Tensor::randn([B, DIMS.n_answers], (Kind::Float, Device::Cpu));
        train(&model, &input, SEED).backward(&of_logits);
        let once = gradients(&vs);
        train(&model, &input, SEED).backward(&of_logits);
        train(&model, &input, SEED).backward(&of_logits);
        for (name, twice) in gradients(&vs) {
            assert!(off(&(twice / 2.0), &once[&name], scale(&once, &name)) < 1e-6, "{name}");
        }
    }

    #[test]
    fn inference_is_the_plain_way() {
        let _generator = generator();
        let (_vs, model) = model([0.2, 0.5]);
        let input = input(Kind::Float);
        let (found, expected) = (model.infer(&input), model.forward(&input, false));
        for (found, expected) in [(&found.logits, &expected.logits), (&found.attention, &expected.attention)] {
            assert!(off(found, expected, expected.abs().max().double_value(&[])) < 1e-5);
            assert!(!found.requires_grad() && expected.requires_grad());
        }
    }

    /// One seed, one result, whatever libtorch's generator did before; and different dropout every time.
    #[test]
    fn libtorchs_seed_decides() {
        let _generator = generator();
        let (_vs, model) = model([0.2, 0.5]);
        let input = input(Kind::Float);
        let logits = || VqaModel::train(&model, &input).output.logits;
        tch::manual_seed(8);
        let (first, second) = (logits(), logits());
        tch::manual_seed(8);
        assert_eq!(logits(), first);
        assert_ne!(first, second);
    }
}
