//! Computations on a CPU between libtorch's operations, parallelised with rayon, in few passes over memory.

pub(crate) mod bce;
pub(crate) mod convert;
pub(crate) mod kernels;
pub(crate) mod slice;
