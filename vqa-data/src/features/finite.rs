//! Finding NaN and infinity among features.

/// Whether no value is NaN or infinite: a loop without branches, which the compiler turns into vector code.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !values.iter().fold(false, |found, x| found | (x.to_bits() & EXPONENT == EXPONENT))
}
