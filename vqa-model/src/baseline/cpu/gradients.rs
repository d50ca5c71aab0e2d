//! Gradients of parameters, where libtorch's optimisers and ours find them.

use tch::{Kind, Tensor};

/// The gradient of a parameter, as a handle that shares its memory; zeros if it has none yet.
pub(super) fn grad_of(parameter: &Tensor) -> Tensor {
    let grad = parameter.grad();
    if grad.defined() {
        return grad;
    }
    // tch cannot set a gradient: only a backward pass of libtorch's makes one.
    tch::with_grad(|| (parameter * 0.0).sum(Kind::Float).backward());
    parameter.grad()
}

/// Adds to the gradient of a parameter.
pub(super) fn add_grad(parameter: &Tensor, grad: &Tensor) {
    let _ = grad_of(parameter).g_add_(grad);
}
