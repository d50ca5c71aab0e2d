//! Linear layers with weight norm, forward and backward.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::kernels;
use super::memory::{Number, numbers, numbers_mut};
use crate::fc::WeightNormLinear;

/// Numbers that a thread works on at once: they fit into its nearest cache.
const CHUNK: usize = 1 << 14;

/// The gradient of a parameter, zeros if it has none yet.
pub(super) fn gradient(parameter: &Tensor) -> Tensor {
    let gradient = parameter.grad();
    if gradient.defined() {
        return gradient;
    }
    // Only a backward pass makes one.
    tch::with_grad(|| (parameter * 0.0).sum(Kind::Float).backward());
    parameter.grad()
}

/// A matrix in another number type, times a factor.
pub(super) fn converted<A: Number, B: Number>(matrix: &Tensor, factor: f32) -> Tensor {
    super::memory::filled::<B>(&matrix.size(), |into| {
        into.par_chunks_mut(CHUNK)
            .zip(numbers::<A>(matrix).par_chunks(CHUNK))
            .for_each(|(into, from)| kernels::scaled(from, factor, into));
    })
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
    /// In float32 the products are scaled, and no weight is written; others are written once, in their type.
    pub(super) fn new<T: Number>(layer: &'a WeightNormLinear) -> Linear<'a> {
        let factor = layer.weight_g.double_value(&[]) / layer.weight_v.norm().double_value(&[]);
        let (matrix, factor) = match T::KIND {
            Kind::Float => (layer.weight_v.detach(), factor),
            _ => (converted::<f32, T>(&layer.weight_v, factor as f32), 1.0),
        };
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
        let _ = gradient(&self.layer.bias).g_add_(&of_output.sum_dim_intlist(0, false, Kind::Float));
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
    let _ = gradient(&layer.weight_g).g_add_scalar_(along / norm);
    let (across, back) = (factor as f32, (-factor * along / squares) as f32);
    numbers_mut::<f32>(&mut gradient(&layer.weight_v)).par_chunks_mut(CHUNK).zip(chunks()).for_each(
        |(of_v, (v, of_weight))| {
            kernels::add_scaled(of_v, across, of_weight);
            kernels::add_scaled(of_v, back, v);
        },
    );
}
