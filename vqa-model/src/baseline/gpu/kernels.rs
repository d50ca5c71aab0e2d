//! The kernels in `kernels/*.cu`.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use crate::feed::cuda_kernel::{CudaKernel, CudaModule, KernelArgument};

/// The kernels, loaded on a device.
#[derive(Debug)]
pub(crate) struct Kernels(HashMap<&'static str, CudaKernel>);

/// A table that a kernel reads.
pub(super) type Table = [u64; 256];

const SOURCE: &str = concat!(
    include_str!("kernels/numbers.cu"),
    include_str!("kernels/weight_norm.cu"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/column_sums.cu"),
    include_str!("kernels/words.cu"),
    include_str!("kernels/recurrent_cells.cu"),
    include_str!("kernels/dropout.cu"),
    include_str!("kernels/activations.cu"),
    include_str!("kernels/attention.cu"),
);
const N_THREADS: u32 = 256;

const NAMES: [&str; 27] = [
    "square_sums",
    "normed_weights",
    "product_sums",
    "add_weight_gradients",
    "to_bf16_rows",
    "to_float_rows",
    "add_rows",
    "column_sums",
    "add_column_sums",
    "embed",
    "sum_by_row",
    "add_word_gradients",
    "gru_forward",
    "gru_backward",
    "lstm_forward",
    "lstm_backward",
    "dropout",
    "relu_backward",
    "multiply",
    "multiply_backward",
    "add_to_float",
    "attend_by_product",
    "attend_by_product_backward",
    "region_gradients_by_product",
    "attend_by_concat",
    "attend_by_concat_backward",
    "region_gradients_by_concat",
];

impl Kernels {
    /// Loads the kernels for a device. `None` on a CPU, and if they cannot be compiled or loaded.
    pub(crate) fn load(device: Device) -> Option<Kernels> {
        CudaModule::load(device, SOURCE, "training steps are made", Kernels::of)
    }

    /// The kernels, emulated on a CPU.
    #[cfg(test)]
    pub(super) fn emulated() -> Kernels {
        Kernels::of(&CudaModule::emulated(SOURCE, &NAMES)).unwrap()
    }

    fn of(module: &CudaModule) -> Result<Kernels, String> {
        NAMES.into_iter().map(|name| Ok((name, module.kernel(name)?))).collect::<Result<_, _>>().map(Kernels)
    }

    /// Launches a kernel with `n_blocks` blocks of `n_threads` threads. The arguments must be its parameters, in order,
    /// and tensors must be as large as it assumes.
    #[allow(unsafe_code)]
    pub(super) fn launch(&self, name: &str, n_blocks: [i64; 2], n_threads: u32, arguments: &[KernelArgument]) {
        let n_blocks = n_blocks.map(|n| u32::try_from(n).expect("a batch that fits into memory"));
        if n_blocks.contains(&0) {
            return;
        }
        // SAFETY: only the sibling modules call this, each next to the shapes that the kernel assumes, and the tests
        // check every kernel against the passes on a CPU. Everything is used in libtorch's current stream.
        let launched = unsafe { self.0[name].launch(n_blocks, n_threads, arguments) };
        launched.unwrap_or_else(|reason| panic!("{name}: {reason}"));
    }

    /// Launches a kernel with one thread for each of `n` items.
    pub(super) fn for_each(&self, name: &str, n: i64, arguments: &[KernelArgument]) {
        self.launch(name, [blocks(n, i64::from(N_THREADS)), 1], N_THREADS, arguments);
    }

    /// Launches a kernel with one thread for every eight values of a tensor, and passes their number as last argument.
    pub(super) fn for_each_eight(&self, name: &str, tensor: &Tensor, arguments: &[KernelArgument]) {
        let n = tensor.numel() as i64 / 8;
        assert_eq!(8 * n, tensor.numel() as i64);
        let mut arguments = arguments.to_vec();
        arguments.push(KernelArgument::Long(n));
        self.for_each(name, n, &arguments);
    }

    /// Launches a kernel with `n_blocks` blocks of the usual size.
    pub(super) fn for_blocks(&self, name: &str, n_blocks: [i64; 2], arguments: &[KernelArgument]) {
        self.launch(name, n_blocks, N_THREADS, arguments);
    }

    /// Converts float32 [rows, columns] to bfloat16, with columns of zeros at the end if the rows are not aligned.
    pub(super) fn to_bf16(&self, matrix: &Tensor) -> Tensor {
        let [rows, columns] = matrix.size()[..] else { panic!("a matrix") };
        let padded = aligned(columns);
        let rounded = Tensor::empty([rows, padded], (Kind::BFloat16, matrix.device()));
        let arguments = [KernelArgument::Floats(matrix), KernelArgument::Bf16s(&rounded)];
        self.of_rows("to_bf16_rows", rows * padded / 8, arguments, [rows, columns, padded]);
        rounded
    }

    /// Converts the first columns of bfloat16 [rows, padded] to float32.
    pub(super) fn to_float(&self, matrix: &Tensor, columns: i64) -> Tensor {
        let [rows, padded] = matrix.size()[..] else { panic!("a matrix") };
        let floats = Tensor::empty([rows, columns], (Kind::Float, matrix.device()));
        let arguments = [KernelArgument::Bf16s(matrix), KernelArgument::Floats(&floats)];
        self.of_rows("to_float_rows", rows * columns, arguments, [rows, columns, padded]);
        floats
    }

    /// Adds the first columns of bfloat16 [rows, padded] to float32 [rows, columns].
    pub(super) fn add_rows(&self, matrix: &Tensor, to: &Tensor) {
        let [rows, columns] = to.size()[..] else { panic!("a matrix") };
        assert!(matrix.size()[0] == rows && matrix.size()[1] >= columns);
        let arguments = [KernelArgument::Bf16s(matrix), KernelArgument::Floats(to)];
        self.of_rows("add_rows", rows * columns, arguments, [rows, columns, matrix.size()[1]]);
    }

    fn of_rows(&self, name: &str, n: i64, [from, to]: [KernelArgument; 2], [rows, columns, padded]: [i64; 3]) {
        let [columns, padded] = [columns, padded].map(int);
        self.for_each(name, n, &[from, to, KernelArgument::Long(rows), columns, padded]);
    }
}

/// Rounds a number of bfloat16 columns up, so that rows are multiples of 16 bytes.
pub(super) fn aligned(n_columns: i64) -> i64 {
    (n_columns + 7) & !7
}

/// How many blocks of `size` items `n` items need.
pub(super) fn blocks(n: i64, size: i64) -> i64 {
    (n + size - 1) / size
}

/// An int argument.
pub(super) fn int(number: i64) -> KernelArgument<'static> {
    KernelArgument::Int(i32::try_from(number).expect("sizes fit into 31 bits"))
}

/// A pointer argument, which is null for `None`.
pub(super) fn or_null<'a>(
    tensor: Option<&'a Tensor>,
    pointer: impl FnOnce(&'a Tensor) -> KernelArgument<'a>,
) -> KernelArgument<'a> {
    tensor.map_or(KernelArgument::Null, pointer)
}
