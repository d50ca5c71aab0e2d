//! The layers with weight norm, all computed at once.

use std::cell::RefCell;

use tch::{Kind, Tensor};

use crate::baseline::fc::WeightNormLinear;
use crate::baseline::gpu::column_sums::ColumnSums;
use crate::baseline::gpu::kernels::{Kernels, Table, aligned, blocks};
use crate::feed::cuda_kernel::KernelArgument;

/// The layers with weight norm, with their weights computed.
pub(super) struct NormedLayers<'a> {
    layers: Vec<NormedLayer<'a>>,
    table: Table,
    n_chunks: i64,
    norms: Tensor, // [layers] float32, of weight_v
}

/// One layer with weight norm.
pub(super) struct NormedLayer<'a> {
    layer: &'a WeightNormLinear,
    /// [out_dim, in_dim] bfloat16, with rows of zeros at its end if out_dim is not aligned.
    pub(super) weight: Tensor,
    /// `[out_dim]` bfloat16, likewise with zeros at its end.
    pub(super) bias: Tensor,
    /// The gradient of `weight`.
    grad: RefCell<Option<Tensor>>,
}

/// The table's fields: see `weight_norm.cu`.
const FIRST_FIELD: usize = 16;
const MAX_LAYERS: usize = 8;
const GRAD_WEIGHT: usize = 9;
/// Elements of a weight that a block of threads handles.
const CHUNK: i64 = 8192;

fn address(tensor: &Tensor) -> u64 {
    assert!(tensor.is_contiguous());
    tensor.data_ptr() as u64
}

impl<'a> NormedLayers<'a> {
    /// Computes the weights.
    pub(super) fn new(kernels: &Kernels, layers: &[&'a WeightNormLinear]) -> NormedLayers<'a> {
        assert!(layers.len() <= MAX_LAYERS);
        let device = layers[0].weight_v.device();
        let norms = Tensor::empty([MAX_LAYERS as i64], (Kind::Float, device));
        let mut table = [0; 256];
        table[0] = layers.len() as u64;
        let mut n_chunks = 0;
        let mut normed = Vec::new();
        for (i, layer) in layers.iter().enumerate() {
            let WeightNormLinear { weight_v, weight_g, bias, .. } = layer;
            let [out_dim, in_dim] = weight_v.size()[..] else { panic!("[out_dim, in_dim]") };
            // A single row, attention's last layer, needs no alignment: kernels read it as a vector.
            let padded = if out_dim == 1 { 1 } else { aligned(out_dim) };
            let weight = Tensor::empty([padded, in_dim], (Kind::BFloat16, device));
            let rounded = Tensor::empty([padded], (Kind::BFloat16, device));
            let fields = [
                address(weight_v),
                address(weight_g),
                weight_v.numel() as u64,
                address(&weight),
                weight.numel() as u64,
                address(bias),
                bias.numel() as u64,
                address(&rounded),
                rounded.numel() as u64,
                0,
                address(&weight_v.grad()),
                address(&weight_g.grad()),
            ];
            for (field, value) in fields.into_iter().enumerate() {
                table[FIRST_FIELD + MAX_LAYERS * field + i] = value;
            }
            table[1 + i] = n_chunks as u64;
            n_chunks += blocks(padded * in_dim, CHUNK);
            normed.push(NormedLayer { layer, weight, bias: rounded, grad: RefCell::default() });
        }
        table[1 + layers.len()] = n_chunks as u64;
        let sums = Tensor::empty([n_chunks], (Kind::Float, device));
        let [of_table, of_sums, of_norms] =
            [KernelArgument::Table(&table), KernelArgument::Floats(&sums), KernelArgument::Floats(&norms)];
        kernels.for_blocks("square_sums", [n_chunks, 1], &[of_table, of_sums]);
        kernels.for_blocks("normed_weights", [n_chunks, 1], &[of_table, of_sums, of_norms]);
        NormedLayers { layers: normed, table, n_chunks, norms }
    }

    /// The layer with this index.
    pub(super) fn of(&self, layer: usize) -> &NormedLayer<'a> {
        &self.layers[layer]
    }

    /// Adds to the gradients of `weight_v` and `weight_g`, once the gradients of all weights are set.
    pub(super) fn add_gradients(mut self, kernels: &Kernels) {
        let grads: Vec<Tensor> =
            self.layers.iter().map(|layer| layer.grad.take().expect("a backward pass of every layer")).collect();
        for (i, (grad, layer)) in grads.iter().zip(&self.layers).enumerate() {
            assert_eq!(grad.size(), layer.weight.size());
            self.table[FIRST_FIELD + MAX_LAYERS * GRAD_WEIGHT + i] = address(grad);
        }
        let sums = Tensor::empty([self.n_chunks], (Kind::Float, self.norms.device()));
        let [of_table, of_sums, of_norms] =
            [KernelArgument::Table(&self.table), KernelArgument::Floats(&sums), KernelArgument::Floats(&self.norms)];
        kernels.for_blocks("product_sums", [self.n_chunks, 1], &[of_table, of_sums]);
        kernels.for_blocks("add_weight_gradients", [self.n_chunks, 1], &[of_table, of_sums, of_norms]);
    }
}

impl NormedLayer<'_> {
    /// Maps [rows, in_dim] to [rows, out_dim], plus a column for each row of zeros that the weight has.
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        self.bias.addmm(xs, &self.weight.tr())
    }

    /// [`NormedLayer::forward`] and a ReLU.
    pub(super) fn forward_relu(&self, xs: &Tensor) -> Tensor {
        // tch 0.24 passes the last argument to libtorch as beta, the factor of the bias. The activation is a ReLU
        // anyway.
        const BETA: bool = true;
        self.bias.internal_addmm_activation(xs, &self.weight.tr(), BETA)
    }

    /// Records the gradients of weight and bias, given the input and the gradient of the output, with its additional
    /// columns.
    pub(super) fn backward(&self, xs: &Tensor, grad: &Tensor, sums: &mut ColumnSums) {
        self.set_grad(grad.tr().mm(xs));
        sums.add(grad, &[&self.layer.bias.grad()]);
    }

    /// Returns the gradient of the input, [rows, in_dim], given that of the output.
    pub(super) fn input_grad(&self, grad: &Tensor) -> Tensor {
        grad.mm(&self.weight)
    }

    /// Sets the gradient of the weight.
    pub(super) fn set_grad(&self, grad: Tensor) {
        self.grad.replace(Some(grad));
    }

    /// The gradient of the bias, as a handle that shares its memory.
    pub(super) fn bias_grad(&self) -> Tensor {
        self.layer.bias.grad()
    }
}
