//! The training step of the [`Baseline`](crate::baseline::Baseline) in bfloat16 on a GPU, with the derivatives written out.
//!
//! A GPU computes this model's matrix products in a third of a step. What is between them waits for memory, and each
//! operation for the one before; so there are as few as can be, each one pass over memory:
//!
//! - All weights with weight norm are computed together, and so are their gradients, and those of all biases.
//! - The products of words with the first layer's weights are computed once for each distinct word of a batch, and their
//!   gradients are added up word by word, in an order that the loader has made.
//! - Attention never holds the [B, K, A] vectors in which questions and regions are compared.
//! - Dropout's masks are drawn where they are needed, forwards and backwards: those that a CPU draws from the same seed.
//!
//! libtorch computes the matrix products. `passes` puts the parts together: the `question_encoder`, whose
//! `recurrent_layer`s are the same for GRU and LSTM, and `attention`. `kernels` calls what is in `kernels/*.cu`.

pub(crate) mod attention;
pub(crate) mod column_sums;
pub(crate) mod kernels;
pub(crate) mod passes;
pub(crate) mod question_encoder;
pub(crate) mod recurrent_layer;
pub(crate) mod weights;

pub(crate) use self::passes::{draw_seed, serves, serves_model, train};

#[cfg(test)]
mod tests;
