//! What is computed on a CPU between libtorch's operations, in parallel by rayon, in few passes over memory.

pub(crate) mod bce;
pub(crate) mod convert;
pub(crate) mod kernels;
pub(crate) mod slice;
