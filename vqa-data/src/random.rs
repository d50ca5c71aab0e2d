//! Random numbers that depend only on a key.

/// Returns a pseudo-random number that depends only on `number` and will never change (SplitMix64, Steele et al. 2014).
/// It is for draws that must not depend on how many were made before.
pub fn split_mix_64(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
