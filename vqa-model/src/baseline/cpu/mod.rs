//! The model's passes on a CPU, with the derivatives written out: the same mathematics as [`Baseline`](crate::baseline::Baseline)'s layers one by one,
//! in a fraction of the work.
//!
//! - A batch's distinct images are projected once, however many questions are about each.
//! - The question encoder goes through the tree of the questions' beginnings, not through every question: `prefix_tree`.
//! - Attention needs no [B, K, H] product: scores are products of rows, with dropout's mask as bits; so are their gradients.
//! - Weight norm scales the products, not the weights. Region features need no gradient.
//!
//! Matrix products are libtorch's, in float32 or bfloat16; what is between them is done here, in float32, by rayon.

pub(crate) mod attention;
pub(crate) mod gru;
pub(crate) mod kernels;
pub(crate) mod linear;
pub(crate) mod passes;
pub(crate) mod prefix_tree;
pub(crate) mod slice;

pub(crate) use self::passes::{infer, serves, train};
