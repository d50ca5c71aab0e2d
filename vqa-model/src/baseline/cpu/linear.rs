//! Linear layers with weight norm, forward and backward.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::baseline::cpu::gradients::{add_grad, grad_of};
use crate::baseline::cpu::sums::column_sums;
use crate::baseline::fc::{FCNet, WeightNormLinear};
use crate::cpu::convert;
use crate::cpu::kernels;
use crate::cpu::slice::{CHUNK, Number, from_rows, values, values_mut};

/// Returns a float32 weight in the form that matrix products of type `T` need, and the factor that the products still
/// have to be multiplied by. In float32 these are the weight itself and `factor`. Otherwise the weight times the
/// factor is converted to `T` once, and 1 is left.
pub(super) fn prepared_weight<T: Number>(weight: &Tensor, factor: f64) -> (Tensor, f64) {
    if T::KIND == Kind::Float {
        return (weight.detach(), factor);
    }
    (convert::scaled::<T>(values::<f32>(weight), &weight.size(), factor as f32), 1.0)
}

/// Turns the gradient of `y`, the output of a ReLU and of dropout with this scale if there is any, into the gradient of
/// their input.
pub(super) fn relu_backward<T: Number>(grad: &mut Tensor, y: &Tensor, scale: f32) {
    values_mut::<T>(grad)
        .par_chunks_mut(CHUNK)
        .zip(values::<T>(y).par_chunks(CHUNK))
        .for_each(|(grad, y)| kernels::relu_backward(grad, y, scale));
}

/// The layer of a net that has only one.
pub(super) fn only_layer(net: &FCNet) -> &WeightNormLinear {
    let [layer] = &net.layers[..] else { panic!("a net of one layer") };
    layer
}

/// A layer, prepared for matrix products of type `T`.
pub(super) struct Linear<'a, T> {
    layer: &'a WeightNormLinear,
    /// [out_dim, in_dim]; the layer's weight is this times `factor`.
    matrix: Tensor,
    factor: f64,
    bias: Tensor, // [out_dim] float32
    number: PhantomData<T>,
}

impl<'a, T: Number> Linear<'a, T> {
    pub(super) fn new(layer: &'a WeightNormLinear) -> Linear<'a, T> {
        Linear::of_columns(layer, 0..layer.weight_v.size()[1])
    }

    /// The part of a layer that reads these columns of its input.
    pub(super) fn of_columns(layer: &'a WeightNormLinear, columns: Range<i64>) -> Linear<'a, T> {
        let factor = layer.weight_g.double_value(&[]) / norm(&layer.weight_v);
        let weight_v = layer.weight_v.detach().narrow(1, columns.start, columns.end - columns.start).contiguous();
        let (matrix, factor) = prepared_weight::<T>(&weight_v, factor);
        Linear { layer, matrix, factor, bias: layer.bias.detach(), number: PhantomData }
    }

    /// The same layer without its bias, which another part adds.
    pub(super) fn without_bias(self) -> Linear<'a, T> {
        Linear { bias: self.bias.zeros_like(), ..self }
    }

    /// The layer of a net that has only one.
    pub(super) fn only_layer(net: &'a FCNet) -> Linear<'a, T> {
        Linear::new(only_layer(net))
    }

    /// Maps [M, in_dim] to [M, out_dim].
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        self.forward_with(xs, false)
    }

    /// Maps [M, in_dim] to [M, out_dim], followed by a ReLU.
    pub(super) fn forward_relu(&self, xs: &Tensor) -> Tensor {
        self.forward_with(xs, true)
    }

    /// Maps [M, in_dim] to [M, out_dim] float32. The product is rounded to `T`, but the sum with the bias isn't.
    pub(super) fn forward_float(&self, xs: &Tensor) -> Tensor {
        if T::KIND == Kind::Float {
            return self.forward(xs);
        }
        let ys = xs.mm(&self.matrix.tr());
        let (shape, ys) = (ys.size(), values::<T>(&ys));
        let (bias, factor) = (values::<f32>(&self.bias), self.factor as f32);
        from_rows::<f32>(&shape, bias.len(), |i, into| {
            let row = kernels::write_scaled(into, factor, &ys[i * bias.len()..][..bias.len()]);
            kernels::add_scaled(row, 1.0, bias);
            row
        })
    }

    fn forward_with(&self, xs: &Tensor, relu: bool) -> Tensor {
        let mut ys = xs.mm(&self.matrix.tr());
        let (bias, factor) = (values::<f32>(&self.bias), self.factor as f32);
        let rows = values_mut::<T>(&mut ys).par_chunks_mut(bias.len());
        rows.for_each(|row| kernels::finish_layer(row, factor, bias, relu));
        ys
    }

    /// Returns the gradient of the input, [M, in_dim], given the gradient of the output, [M, out_dim].
    pub(super) fn input_grad(&self, grad_output: &Tensor) -> Tensor {
        let mut grad = grad_output.mm(&self.matrix);
        if self.factor != 1.0 {
            let _ = grad.g_mul_scalar_(self.factor);
        }
        grad
    }

    /// Adds to the gradients of the parameters, given the input, [M, in_dim], and the gradient of the output,
    /// [M, out_dim].
    pub(super) fn backward(&self, xs: &Tensor, grad_output: &Tensor) {
        add_grad(&self.layer.bias, &column_sums::<T>(grad_output));
        add_weight_grad::<T>(self.layer, &grad_output.tr().mm(xs));
    }
}

/// The Euclidean norm of a float32 tensor.
fn norm(tensor: &Tensor) -> f64 {
    let tensor = tensor.detach();
    // Collected before they are added up, so that the sum doesn't depend on which thread is faster.
    let squares: Vec<f64> = values::<f32>(&tensor).par_chunks(CHUNK).map(|part| long_dot(part, part)).collect();
    squares.iter().sum::<f64>().sqrt()
}

/// The dot product of two long rows: each part's in float32, and the sum over the parts in float64.
fn long_dot<A: Number, B: Number>(a: &[A], b: &[B]) -> f64 {
    const PART: usize = 1 << 10;
    a.chunks(PART).zip(b.chunks(PART)).map(|(a, b)| f64::from(kernels::dot(a, b))).sum()
}

/// Adds to the gradients of a layer's g and v, given the gradient of its weight, [out_dim, in_dim].
///
/// As weight = g v / ‖v‖, the component of that gradient along v is the gradient of g, and the component orthogonal to
/// v, times g / ‖v‖, is the gradient of v.
pub(super) fn add_weight_grad<T: Number>(layer: &WeightNormLinear, grad_weight: &Tensor) {
    let v = layer.weight_v.detach();
    let (v, grad_weight) = (values::<f32>(&v), values::<T>(grad_weight));
    let chunks = || v.par_chunks(CHUNK).zip(grad_weight.par_chunks(CHUNK));
    // Collected before they are added up, so that the sum doesn't depend on which thread is faster.
    let dots: Vec<[f64; 2]> = chunks().map(|(v, grad_weight)| [long_dot(v, v), long_dot(grad_weight, v)]).collect();
    let [squares, along] = [0, 1].map(|i| dots.iter().map(|dot| dot[i]).sum::<f64>());
    let norm = squares.sqrt();
    let factor = layer.weight_g.double_value(&[]) / norm;
    let _ = grad_of(&layer.weight_g).g_add_scalar_(along / norm);
    let (across, back) = (factor as f32, (-factor * along / squares) as f32);
    values_mut::<f32>(&mut grad_of(&layer.weight_v)).par_chunks_mut(CHUNK).zip(chunks()).for_each(
        |(grad_v, (v, grad_weight))| {
            kernels::add_scaled(grad_v, across, grad_weight);
            kernels::add_scaled(grad_v, back, v);
        },
    );
}
