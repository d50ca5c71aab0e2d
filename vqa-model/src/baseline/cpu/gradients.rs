//! Gradients of parameters, stored where both libtorch's optimisers and ours find them.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::cpu::kernels;
use crate::cpu::slice::{CHUNK, Number, values, values_mut};

/// The gradient of a parameter, as a handle that shares its memory; zeros if it has none yet.
pub(super) fn grad_of(parameter: &Tensor) -> Tensor {
    let grad = parameter.grad();
    if grad.defined() {
        return grad;
    }
    // tch cannot set a gradient: only a backward pass of libtorch creates one.
    tch::with_grad(|| (parameter * 0.0).sum(Kind::Float).backward());
    parameter.grad()
}

/// Adds to the gradient of a parameter.
pub(super) fn add_grad(parameter: &Tensor, grad: &Tensor) {
    let _ = grad_of(parameter).g_add_(grad);
}

/// Adds a matrix product of type `T` to a float32 gradient, or to columns of one. A contiguous gradient takes a single
/// pass, where libtorch would convert the product first.
pub(super) fn add_product<T: Number>(grad: &mut Tensor, product: &Tensor) {
    if !grad.is_contiguous() {
        let _ = grad.g_add_(product);
        return;
    }
    values_mut::<f32>(grad)
        .par_chunks_mut(CHUNK)
        .zip(values::<T>(product).par_chunks(CHUNK))
        .for_each(|(grad, product)| kernels::add_scaled(grad, 1.0, product));
}
