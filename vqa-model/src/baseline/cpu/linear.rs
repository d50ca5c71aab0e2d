//! Linear layers with weight norm, forward and backward.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::baseline::cpu::kernels;
use crate::baseline::cpu::slice::{Number, filled, numbers, numbers_mut};
use crate::baseline::fc::WeightNormLinear;

/// Numbers that a thread works on at once: they fit into its nearest cache.
const CHUNK: usize = 1 << 14;

/// The gradient of a parameter, zeros if it has none yet.
pub(super) fn gradient_of(parameter: &Tensor) -> Tensor {
    let gradient = parameter.grad();
    if gradient.defined() {
        return gradient;
    }
    // Only a backward pass makes one.
    tch::with_grad(|| (parameter * 0.0).sum(Kind::Float).backward());
    parameter.grad()
}

/// Adds to a sum, which may be a gradient.
pub(super) fn add(sum: &Tensor, x: &Tensor) {
    let _ = sum.shallow_clone().g_add_(x);
}

/// A float32 weight in the number type of the products, and what is left to multiply these by. In float32 that is the
/// factor, and no weight is written; others are written once, times the factor.
pub(super) fn prepared<T: Number>(weight: &Tensor, factor: f64) -> (Tensor, f64) {
    if T::KIND == Kind::Float {
        return (weight.detach(), factor);
    }
    let written = filled::<T>(&weight.size(), |into| {
        into.par_chunks_mut(CHUNK)
            .zip(numbers::<f32>(weight).par_chunks(CHUNK))
            .for_each(|(into, from)| kernels::scaled(from, factor as f32, into));
    });
    (written, 1.0)
}

/// The ReLU of a layer, and the dropout after it if there is one, seen from behind.
pub(super) fn relu_backward<T: Number>(gradient: &mut Tensor, y: &Tensor, scale: f32) {
    numbers_mut::<T>(gradient)
        .par_chunks_mut(CHUNK)
        .zip(numbers::<T>(y).par_chunks(CHUNK))
        .for_each(|(gradient, y)| kernels::relu_backward(gradient, y, scale));
}

/// A layer with its weight as a step's products want it.
pub(super) struct Linear<'a> {
    layer: &'a WeightNormLinear,
    /// [out_dim, in_dim]; the layer's weight is this times `factor`.
    matrix: Tensor,
    factor: f64,
}

impl<'a> Linear<'a> {
    pub(super) fn new<T: Number>(layer: &'a WeightNormLinear) -> Linear<'a> {
        let factor = layer.weight_g.double_value(&[]) / layer.weight_v.norm().double_value(&[]);
        let (matrix, factor) = prepared::<T>(&layer.weight_v, factor);
        Linear { layer, matrix, factor }
    }

    /// [M, in_dim] to [M, out_dim].
    pub(super) fn forward<T: Number>(&self, xs: &Tensor) -> Tensor {
        self.finished::<T>(xs, false)
    }

    /// [M, in_dim] to [M, out_dim], and a ReLU.
    pub(super) fn forward_relu<T: Number>(&self, xs: &Tensor) -> Tensor {
        self.finished::<T>(xs, true)
    }

    fn finished<T: Number>(&self, xs: &Tensor, relu: bool) -> Tensor {
        let mut ys = xs.mm(&self.matrix.tr());
        let bias = self.layer.bias.detach();
        let (bias, factor) = (numbers::<f32>(&bias), self.factor as f32);
        let rows = numbers_mut::<T>(&mut ys).par_chunks_mut(bias.len());
        rows.for_each(|row| kernels::finish_layer(row, factor, bias, relu));
        ys
    }

    /// The gradient of the input, [M, in_dim], from that of the output, [M, out_dim].
    pub(super) fn input_gradient(&self, of_output: &Tensor) -> Tensor {
        let mut gradient = of_output.mm(&self.matrix);
        if self.factor != 1.0 {
            let _ = gradient.g_mul_scalar_(self.factor);
        }
        gradient
    }

    /// Adds to the gradients of the parameters, from the input and the gradient of the output.
    pub(super) fn backward<T: Number>(&self, xs: &Tensor, of_output: &Tensor) {
        add(&gradient_of(&self.layer.bias), &of_output.sum_dim_intlist(0, false, Kind::Float));
        add_weight_gradient::<T>(self.layer, &of_output.tr().mm(xs));
    }
}

/// Adds to the gradients of a layer's g and v, from that of its weight.
///
/// As weight = g v / ‖v‖, that gradient has a share along v, which belongs to g, and one across it, which belongs to v.
pub(super) fn add_weight_gradient<T: Number>(layer: &WeightNormLinear, of_weight: &Tensor) {
    let v = layer.weight_v.detach();
    let (v, of_weight) = (numbers::<f32>(&v), numbers::<T>(of_weight));
    let chunks = || v.par_chunks(CHUNK).zip(of_weight.par_chunks(CHUNK));
    // Collected before they are added up: the sum must not depend on which thread was faster.
    let products: Vec<[f32; 2]> =
        chunks().map(|(v, of_weight)| [kernels::dot(v, v), kernels::dot(of_weight, v)]).collect();
    let [squares, along] = [0, 1].map(|i| products.iter().map(|product| f64::from(product[i])).sum::<f64>());
    let norm = squares.sqrt();
    let factor = layer.weight_g.double_value(&[]) / norm;
    let _ = gradient_of(&layer.weight_g).g_add_scalar_(along / norm);
    let (across, back) = (factor as f32, (-factor * along / squares) as f32);
    numbers_mut::<f32>(&mut gradient_of(&layer.weight_v)).par_chunks_mut(CHUNK).zip(chunks()).for_each(
        |(of_v, (v, of_weight))| {
            kernels::add_scaled(of_v, across, of_weight);
            kernels::add_scaled(of_v, back, v);
        },
    );
}
