//! Gradients of biases: column sums of many matrices at once.

use tch::{Kind, Tensor};

use crate::baseline::gpu::kernels::{Kernels, blocks};
use crate::feed::cuda_kernel::KernelArgument;

/// Matrices whose columns are to be summed.
#[derive(Default)]
pub(super) struct ColumnSums(Vec<Summed>);

struct Summed {
    matrix: Tensor, // [rows, columns] bfloat16, whose rows need not be adjacent
    /// `[columns]` float32, what the sums are added to.
    to: Vec<Tensor>,
}

/// Rows and columns that a block of threads sums.
const ROWS: i64 = 512;
const COLUMNS: i64 = 64;

impl ColumnSums {
    /// Queues the column sums of a matrix, to be added to one or two vectors, which may have fewer elements than the
    /// matrix has columns.
    pub(super) fn add(&mut self, matrix: &Tensor, to: &[&Tensor]) {
        let &[rows, columns] = &matrix.size()[..] else { panic!("a matrix") };
        assert!((1..=2).contains(&to.len()) && matrix.kind() == Kind::BFloat16 && rows > 0);
        assert!(matrix.stride()[1] == 1 && matrix.stride()[0] % 8 == 0 && columns % 8 == 0);
        let to_first = to[0];
        for to in to {
            assert!(
                to.size() == to_first.size()
                    && to.size()[0] <= columns
                    && to.is_contiguous()
                    && to.kind() == Kind::Float
            );
        }
        self.0.push(Summed { matrix: matrix.shallow_clone(), to: to.iter().map(|to| to.shallow_clone()).collect() });
    }

    /// Computes all queued sums.
    pub(super) fn finish(self, kernels: &Kernels) {
        /// The most matrices that the kernels' table has room for.
        const MOST: usize = 36;
        for some in self.0.chunks(MOST) {
            let mut table = [0; 256];
            table[0] = some.len() as u64;
            let mut n_blocks = 0;
            for (Summed { matrix, to }, entry) in some.iter().zip(table[1..].chunks_exact_mut(7)) {
                let (rows, columns) = (matrix.size()[0], to[0].size()[0]);
                let address = |tensor: &Tensor| tensor.data_ptr() as u64;
                let second = to.get(1).map_or(0, address);
                let stride = matrix.stride()[0] as u64;
                let first_block = n_blocks as u64;
                entry.copy_from_slice(&[
                    address(matrix),
                    rows as u64,
                    columns as u64,
                    stride,
                    address(&to[0]),
                    second,
                    first_block,
                ]);
                n_blocks += blocks(rows, ROWS) * blocks(columns, COLUMNS);
            }
            let partial = Tensor::empty([n_blocks, COLUMNS], (Kind::Float, some[0].matrix.device()));
            let arguments = [KernelArgument::Table(&table), KernelArgument::Floats(&partial)];
            kernels.for_blocks("column_sums", [n_blocks, 1], &arguments);
            kernels.launch("add_column_sums", [n_blocks, 1], COLUMNS as u32, &arguments);
        }
    }
}
