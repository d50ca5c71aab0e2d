//! Fully connected layers with weight norm, and the classifier built from them.

use tch::nn::{Init, Path};
use tch::{Device, Kind, Tensor};

/// A linear layer whose weight is `weight_g * weight_v / ‖weight_v‖`, the norm being over the entire tensor:
/// PyTorch's `weight_norm(nn.Linear(in_dim, out_dim), dim=None)`.
#[derive(Debug)]
pub struct WeightNormLinear {
    pub(crate) weight_g: Tensor, // []
    pub(crate) weight_v: Tensor, // [out_dim, in_dim]
    pub(crate) bias: Tensor,     // [out_dim]
}

impl WeightNormLinear {
    /// A layer with PyTorch's initialisation of `nn.Linear`: weight and bias uniform in ± 1 / sqrt(in_dim).
    pub fn new(vs: Path, in_dim: i64, out_dim: i64) -> WeightNormLinear {
        let bound = 1.0 / (in_dim as f64).sqrt();
        let uniform = Init::Uniform { lo: -bound, up: bound };
        let weight_v = vs.var("weight_v", &[out_dim, in_dim], uniform);
        let weight_g = vs.var_copy("weight_g", &weight_v.norm());
        let bias = vs.var("bias", &[out_dim], uniform);
        WeightNormLinear { weight_g, weight_v, bias }
    }

    /// The weight, [out_dim, in_dim].
    pub fn weight(&self) -> Tensor {
        &self.weight_v * (&self.weight_g / norm(&self.weight_v))
    }

    /// Maps [.., in_dim] to [.., out_dim], in the number type of the input.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let kind = xs.kind();
        let (out_dim, mut bias) = (self.bias.size()[0], self.bias.to_kind(kind));
        let n = columns_to_align(xs.device(), out_dim);
        let mut weight = self.weight().to_kind(kind);
        if n == 0 {
            return xs.linear(&weight, Some(&bias));
        }
        weight = weight.constant_pad_nd([0, 0, 0, n]);
        bias = bias.constant_pad_nd([0, n]);
        xs.linear(&weight, Some(&bias)).narrow(-1, 0, out_dim).contiguous()
    }
}

/// How many columns of zeros pad the rows of a matrix to multiples of 16 bytes, which a GPU's fastest matrix products
/// need. Products of other matrices take five to ten times as long. Narrow matrices are not worth padding.
pub(crate) fn columns_to_align(device: Device, n_columns: i64) -> i64 {
    const ALIGNED: i64 = 8;
    if device.is_cuda() && n_columns > ALIGNED { -n_columns & (ALIGNED - 1) } else { 0 }
}

/// The norm over all of a tensor.
fn norm(tensor: &Tensor) -> Tensor {
    if !tensor.device().is_cuda() {
        return tensor.norm();
    }
    // The backward pass of libtorch's norm reads and writes the tensor three times; that of a product with a constant
    // does so once. The product has half the gradient of the square, so it is counted twice.
    let flat = tensor.view([-1]);
    let square = flat.dot(&flat.detach());
    (&square * 2.0 - square.detach()).sqrt()
}

/// Fully connected layers, each with weight norm and followed by a ReLU.
#[derive(Debug)]
pub struct FCNet {
    pub(crate) layers: Vec<WeightNormLinear>,
}

impl FCNet {
    /// One layer from each of `dims` to the next. The parameters are `main.0.*`, `main.2.*` …; the odd
    /// numbers are the ReLUs.
    pub fn new(vs: Path, dims: &[i64]) -> FCNet {
        let main = vs / "main";
        let layers = dims
            .windows(2)
            .enumerate()
            .map(|(i, pair)| WeightNormLinear::new(&main / (2 * i), pair[0], pair[1]))
            .collect();
        FCNet { layers }
    }

    /// Maps `[.., dims[0]]` to `[.., dims[last]]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.layers.iter().fold(xs.shallow_clone(), |xs, layer| layer.forward(&xs).relu())
    }
}

/// Maps the fused representation to a logit for each answer: linear, ReLU, dropout, linear.
#[derive(Debug)]
pub struct SimpleClassifier {
    pub(crate) hidden: WeightNormLinear,
    pub(crate) output: WeightNormLinear,
    pub(crate) dropout: f64,
}

impl SimpleClassifier {
    /// The parameters are `main.0.*` and `main.3.*`; ReLU and dropout are in between.
    pub fn new(vs: Path, in_dim: i64, hid_dim: i64, out_dim: i64, dropout: f64) -> SimpleClassifier {
        let main = vs / "main";
        SimpleClassifier {
            hidden: WeightNormLinear::new(&main / 0, in_dim, hid_dim),
            output: WeightNormLinear::new(&main / 3, hid_dim, out_dim),
            dropout,
        }
    }

    /// Maps [B, in_dim] to [B, out_dim].
    pub fn forward(&self, xs: &Tensor, train: bool) -> Tensor {
        let hidden = dropout(&self.hidden.forward(xs).relu(), self.dropout, train);
        self.output.forward(&hidden).to_kind(Kind::Float)
    }
}

/// Dropout that costs nothing where it does nothing.
pub(crate) fn dropout(xs: &Tensor, p: f64, train: bool) -> Tensor {
    if train && p > 0.0 { xs.dropout(p, true) } else { xs.shallow_clone() }
}
