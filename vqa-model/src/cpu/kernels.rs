//! Loops over rows of values. Each is compiled for several generations of processors, and the best version is
//! chosen at run time. They are written so that the compiler turns them into vector instructions.
//!
//! That takes care, especially in loops over chunks of lanes. Sums are hidden from the compiler (`black_box`) before
//! they are added up: otherwise it pairs lanes in the order of that reduction. The bits of masks are hidden too, and
//! selecting by them is done with arithmetic: otherwise there is a branch for each bit. In loops without sums, the
//! mask itself is hidden: otherwise the compiler processes the same lane of many chunks at once. Whether this worked
//! shows in the machine code: `objdump -d` should show no gathers, and `mulss` only after the loops.

use std::hint::black_box;
use std::mem::MaybeUninit;

use multiversion::multiversion;

use crate::cpu::slice::{Number, write_each};

/// Values that are processed at a time: as many float32 as the widest vector registers hold.
pub(crate) const LANES: usize = 16;

/// e to the x, with a relative error below 2e-7; x is clamped to ± 87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this pushes all but the integer part of a value out of the mantissa (Cody and Waite).
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_145_75;
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    // The Taylor series of e to the r, where |r| is at most ln 2 / 2.
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// Adds up the sums of a loop's lanes, in halves: for smaller rounding errors, and because the halves of a register can
/// be added at once.
#[inline(always)]
pub(crate) fn total<const N: usize>(mut sums: [f32; N]) -> f32 {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            sums[i] += sums[i + n];
        }
    }
    sums[0]
}

/// The bit of each lane in a word of a mask.
#[inline(always)]
pub(crate) fn lane_bits() -> [u32; LANES] {
    black_box(std::array::from_fn(|lane| 1 << lane))
}

/// `x` if a word of a mask has this bit, else 0.
#[inline(always)]
pub(crate) fn kept(x: f32, mask: u16, bit: u32) -> f32 {
    f32::from_bits(x.to_bits() & u32::from(u32::from(mask) & bit != 0).wrapping_neg())
}

/// The dot product of two rows.
#[multiversion(targets = "simd")]
pub(crate) fn dot<A: Number, B: Number>(a: &[A], b: &[B]) -> f32 {
    // Two independent sums, since each addition has to wait for the one before.
    let (mut even, mut odd) = ([0f32; LANES], [0f32; LANES]);
    let (a, a_rest) = a.as_chunks::<{ 2 * LANES }>();
    let (b, b_rest) = b.as_chunks::<{ 2 * LANES }>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            even[lane] += a[lane].to_f32() * b[lane].to_f32();
        }
        for lane in 0..LANES {
            odd[lane] += a[LANES + lane].to_f32() * b[LANES + lane].to_f32();
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a.to_f32() * b.to_f32()).sum();
    let (even, odd) = (black_box(even), black_box(odd));
    total::<LANES>(std::array::from_fn(|lane| even[lane] + odd[lane])) + rest
}

/// Adds `factor` times a row to `sum`.
#[multiversion(targets = "simd")]
pub(crate) fn add_scaled<T: Number>(sum: &mut [f32], factor: f32, row: &[T]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += factor * x.to_f32();
    }
}

/// Writes `factor` times a row, as another type, and returns it.
#[multiversion(targets = "simd")]
pub(crate) fn write_scaled<'a, A: Number, B: Number>(
    into: &'a mut [MaybeUninit<B>],
    factor: f32,
    row: &[A],
) -> &'a mut [B] {
    write_each(into, row, |x| B::from_f32(factor * x.to_f32()))
}

/// [`dot`] over the entries that a mask keeps.
#[multiversion(targets = "simd")]
pub(crate) fn masked_dot<T: Number>(mask: &[u16], a: &[T], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let bits = lane_bits();
    for ((a, b), &mask) in a.iter().zip(b).zip(mask) {
        for lane in 0..LANES {
            sums[lane] += kept(a[lane].to_f32() * b[lane], mask, bits[lane]);
        }
    }
    let mut sum = total(black_box(sums));
    if let Some(&mask) = mask.get(a.len()) {
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            sum += if mask >> lane & 1 != 0 { a.to_f32() * b } else { 0.0 };
        }
    }
    sum
}

/// [`add_scaled`] for the entries that a mask keeps.
#[multiversion(targets = "simd")]
pub(crate) fn add_masked<T: Number>(sum: &mut [f32], factor: f32, mask: &[u16], row: &[T]) {
    let (sum, sum_rest) = sum.as_chunks_mut::<LANES>();
    let (row, row_rest) = row.as_chunks::<LANES>();
    let (n_chunks, bits) = (sum.len(), lane_bits());
    for ((sum, row), &mask) in sum.iter_mut().zip(row).zip(mask) {
        let mask = black_box(mask);
        for lane in 0..LANES {
            sum[lane] += kept(factor * row[lane].to_f32(), mask, bits[lane]);
        }
    }
    if let Some(&mask) = mask.get(n_chunks) {
        for (lane, (sum, x)) in sum_rest.iter_mut().zip(row_rest).enumerate() {
            *sum += if mask >> lane & 1 != 0 { factor * x.to_f32() } else { 0.0 };
        }
    }
}

/// Draws the mask of a row: an entry is kept where 16 random bits, a hash of the key and the entry's index, are below
/// `threshold`.
#[multiversion(targets = "simd")]
pub(crate) fn draw_mask(key: u64, threshold: u32, mask: &mut [u16]) {
    let (low, high) = (key as u32, (key >> 32) as u32);
    let lane_bits = lane_bits();
    for (i, pair) in mask.chunks_mut(2).enumerate() {
        let mut bits = [0u32; LANES];
        for (lane, bits) in bits.iter_mut().enumerate() {
            // A hash of two rounds (Wellons' lowbias32) of a Weyl sequence.
            let mut x = low.wrapping_add(((i * LANES + lane) as u32).wrapping_mul(0x9e37_79b9));
            x ^= (x >> 16) ^ high;
            x = x.wrapping_mul(0x7feb_352d);
            x ^= x >> 15;
            x = x.wrapping_mul(0x846c_a68b);
            *bits = x ^ (x >> 16);
        }
        // Each lane's bits of both masks, which are then combined in halves.
        let mut kept: [u32; LANES] = std::array::from_fn(|lane| {
            let first = if bits[lane] & 0xffff < threshold { lane_bits[lane] } else { 0 };
            let second = if bits[lane] >> 16 < threshold { lane_bits[lane] << 16 } else { 0 };
            first | second
        });
        let mut n = LANES;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                kept[i] |= kept[i + n];
            }
        }
        for (mask, kept) in pair.iter_mut().zip([kept[0], kept[0] >> 16]) {
            *mask = kept as u16;
        }
    }
}

/// Turns a layer's matrix product into its output: times `factor`, plus the bias, then a ReLU if `relu`.
#[multiversion(targets = "simd")]
pub(crate) fn finish_layer<T: Number>(row: &mut [T], factor: f32, bias: &[f32], relu: bool) {
    let least = if relu { 0.0 } else { f32::NEG_INFINITY };
    for (x, bias) in row.iter_mut().zip(bias) {
        let y = factor * x.to_f32() + bias;
        // NaN stays NaN.
        *x = T::from_f32(if y < least { least } else { y });
    }
}

/// Dropout: multiplies by `scale` what a mask keeps, and by 0 the rest.
#[multiversion(targets = "simd")]
pub(crate) fn dropout<T: Number>(row: &mut [T], mask: &[u16], scale: f32) {
    for (chunk, &mask) in row.chunks_mut(LANES).zip(mask) {
        for (lane, x) in chunk.iter_mut().enumerate() {
            let kept = if mask >> lane & 1 != 0 { scale } else { 0.0 };
            *x = T::from_f32(x.to_f32() * kept);
        }
    }
}

/// Turns the gradient of `y`, the output of a ReLU and dropout with this scale, into the gradient of their input. `y`
/// is 0 where either of them stops the gradient.
#[multiversion(targets = "simd")]
pub(crate) fn relu_backward<T: Number>(grad: &mut [T], y: &[T], scale: f32) {
    for (grad, y) in grad.iter_mut().zip(y) {
        *grad = T::from_f32(if y.to_f32() > 0.0 { grad.to_f32() * scale } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn functions_are_close_to_the_standard_library(x in -30f32..30.0) {
            let x64 = f64::from(x);
            prop_assert!((f64::from(exp(x)) / x64.exp() - 1.0).abs() < 3e-7, "exp {x}");
            prop_assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-x64).exp())).abs() < 1e-6, "sigmoid {x}");
            prop_assert!((f64::from(tanh(x)) - x64.tanh()).abs() < 1e-6, "tanh {x}");
        }

        #[test]
        fn bf16_is_rounded_as_by_half(bits: u32) {
            let x = f32::from_bits(bits);
            let found = <bf16 as Number>::from_f32(x);
            prop_assert!(x.is_nan() || found.to_bits() == bf16::from_f32(x).to_bits(), "{x}");
        }

        #[test]
        fn masked_loops_do_what_their_names_say(row in prop::collection::vec(-2f32..2.0, 0..100), key: u64) {
            let n = row.len();
            let mut mask = vec![0; n.div_ceil(LANES)];
            draw_mask(key, 40_000, &mut mask);
            let kept = |i: usize| mask[i / LANES] >> (i % LANES) & 1 != 0;
            let other: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let expected: f32 = (0..n).filter(|&i| kept(i)).map(|i| row[i] * other[i]).sum();
            prop_assert!((masked_dot(&mask, &row, &other) - expected).abs() < 1e-4);
            let expected: f32 = (0..n).map(|i| row[i] * other[i]).sum();
            prop_assert!((dot(&row, &other) - expected).abs() < 1e-4);

            let mut sum = other.clone();
            add_masked(&mut sum, 0.5, &mask, &row);
            let mut dropped = row.clone();
            finish_layer(&mut dropped, 1.0, &vec![0.0; n], true);
            dropout(&mut dropped, &mask, 2.0);
            let mut gradient = other.clone();
            relu_backward(&mut gradient, &dropped, 2.0);
            for i in 0..n {
                prop_assert_eq!(sum[i], if kept(i) { other[i] + 0.5 * row[i] } else { other[i] });
                let passes = kept(i) && row[i] > 0.0;
                prop_assert_eq!(dropped[i], if passes { 2.0 * row[i] } else { 0.0 });
                prop_assert_eq!(gradient[i], if passes { 2.0 * other[i] } else { 0.0 });
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!((sigmoid(200.0), sigmoid(-200.0) < 1e-37, tanh(200.0), tanh(-200.0)), (1.0, true, 1.0, -1.0));
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert!(<bf16 as Number>::from_f32(f32::NAN).to_f32().is_nan());
    }
}
