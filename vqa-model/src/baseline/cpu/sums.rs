//! Sums of many rows.

use std::ops::Range;

use rayon::prelude::*;
use tch::Tensor;

use crate::cpu::kernels;
use crate::cpu::slice::{Number, from_zeros, values};

/// How many rows at most are added up one after the other.
const FEW: usize = 64;

/// Adds rows to `sum`, which is all zeros; `add` adds one of them. Many rows are summed in halves (pairwise summation):
/// the rounding error of a sequential sum grows with the number of rows, as the last ones are added to a much larger
/// sum, while that of pairwise summation grows with its logarithm. The extra cost is one row for every `FEW`.
pub(super) fn add_rows(sum: &mut [f32], rows: Range<usize>, add: &impl Fn(&mut [f32], usize)) {
    if rows.len() <= FEW {
        rows.for_each(|row| add(sum, row));
        return;
    }
    let middle = rows.start + rows.len() / 2;
    add_rows(sum, rows.start..middle, add);
    let mut second = vec![0f32; sum.len()];
    add_rows(&mut second, middle..rows.end, add);
    kernels::add_scaled(sum, 1.0, &second);
}

/// The sums of a matrix's columns, [columns] float32, from [rows, columns].
pub(super) fn column_sums<T: Number>(matrix: &Tensor) -> Tensor {
    /// Columns that a thread sums at a time, few enough for their sums to stay in its L1 cache.
    const COLUMNS: usize = 512;
    let [n_rows, n_columns] = matrix.size()[..] else { panic!("a matrix is [rows, columns]") };
    let values = values::<T>(matrix);
    from_zeros::<f32>(&[n_columns], |sums| {
        sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, sums)| {
            let part = |row: usize| &values[row * n_columns as usize + i * COLUMNS..][..sums.len()];
            let mut total = vec![0f32; sums.len()];
            add_rows(&mut total, 0..n_rows as usize, &|sum, row| kernels::add_scaled(sum, 1.0, part(row)));
            sums.copy_from_slice(&total);
        });
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Integers are summed without rounding, in any order.
        #[test]
        fn every_row_is_added_once(rows in prop::collection::vec(prop::array::uniform3(-1000i16..1000), 0..400)) {
            let mut sum = [0f32; 3];
            add_rows(&mut sum, 0..rows.len(), &|sum, i| kernels::add_scaled(sum, 1.0, &rows[i].map(f32::from)));
            let expected = [0, 1, 2].map(|i| rows.iter().map(|row| f32::from(row[i])).sum::<f32>());
            prop_assert_eq!(sum, expected);
        }
    }

    #[test]
    fn columns_are_added_up() {
        for columns in [1, 512, 1000] {
            let matrix = Tensor::arange(70 * columns, (tch::Kind::Float, tch::Device::Cpu)).view([70, columns]);
            assert_eq!(column_sums::<f32>(&matrix), matrix.sum_dim_intlist(0, false, tch::Kind::Float));
        }
    }

    /// A sequential sum would accumulate millions of rounding errors.
    #[test]
    fn sums_of_millions_are_exact() {
        let mut sum = [0f32];
        add_rows(&mut sum, 0..4_000_000, &|sum, _| sum[0] += 0.1);
        let exact = 4e6 * f64::from(0.1f32);
        assert!((f64::from(sum[0]) / exact - 1.0).abs() < 1e-6, "{}", sum[0]);
    }
}
