//! The passes of the [`Baseline`](crate::baseline::Baseline) on a CPU, with the derivatives written out: the same
//! mathematics as its layers, in a fraction of the work.
//!
//! - Each image of a batch is projected once, however many questions are about it.
//! - Words that several questions start with are read once, with the help of a prefix tree, in all layers of the
//!   recurrent network. If it is bidirectional, its first layer shares beginnings and endings, and the layers above
//!   read each distinct question once.
//! - Attention never holds the [B, K, A] vectors in which questions and regions are compared: its scores and their
//!   gradients are computed from the rows of each, and dropout masks are bits.
//! - Weight norm scales the products, not the weights. Region features need no gradient.
//!
//! libtorch computes the matrix products, in float32 or bfloat16. Everything between them is computed here, in
//! float32, in parallel by rayon.
//!
//! `passes` combines the parts: the `question_encoder`, `attention` and the `classifier`. A `recurrent_layer` of the
//! encoder works with either `cell`, a `gru` or an `lstm`, and attention with either `product_scores` or
//! `concat_scores`. The other modules are what these are built from.

pub(crate) mod attention;
pub(crate) mod attention_inputs;
pub(crate) mod cell;
pub(crate) mod classifier;
pub(crate) mod concat_scores;
pub(crate) mod gradients;
pub(crate) mod gru;
pub(crate) mod joint_vectors;
pub(crate) mod linear;
pub(crate) mod lstm;
pub(crate) mod masks;
pub(crate) mod passes;
pub(crate) mod prefix_tree;
pub(crate) mod product_scores;
pub(crate) mod question_encoder;
pub(crate) mod question_images;
pub(crate) mod recurrent_layer;
pub(crate) mod steps;
pub(crate) mod sums;
pub(crate) mod texts;
pub(crate) mod tree;

pub(crate) use self::passes::{encode_images, infer, infer_encoded, serves, serves_images, train};

#[cfg(test)]
pub(crate) mod tests;
