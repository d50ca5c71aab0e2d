//! The training step of the [`Baseline`](crate::baseline::Baseline) in bfloat16 on a GPU, with the derivatives written
//! out.
//!
//! On a GPU, this model's matrix products take a third of a step. The operations between them wait for memory, and each
//! for the one before, so there are as few as possible, each a single pass over memory:
//!
//! - All weights with weight norm are computed together, and so are their gradients, and those of all biases.
//! - The products of words with the first layer's weights are computed once for each distinct word of a batch, and
//!   their gradients are summed word by word, in an order that the loader has prepared.
//! - Attention never holds the [B, K, A] vectors in which questions and regions are compared.
//! - Dropout masks are drawn where they are needed, in the forward and in the backward pass. They are the same masks
//!   that a CPU draws from the same seed.
//!
//! libtorch computes the matrix products. `passes` combines the parts: the `question_encoder`, whose
//! `recurrent_layer`s are the same for GRU and LSTM, and `attention`. `kernels` launches what is in `kernels/*.cu`.

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
