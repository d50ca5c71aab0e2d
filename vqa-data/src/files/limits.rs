//! Limits on the sizes that a file may claim.

/// Slightly more than deflate's compression ratio for nothing but zeros: no data is larger than this times its stored
/// size.
#[cfg(feature = "hdf5")]
pub(crate) const MAX_COMPRESSION: u64 = 1100;

/// Somewhat more than gzip's compression ratio for the most repetitive text that people have reason to write: indented
/// annotations in which everybody said "yes" shrink to 1/150 of their size.
pub(crate) const MAX_TEXT_COMPRESSION: u64 = 256;

/// A text of at most this many bytes may have been compressed by any factor.
pub(crate) const SMALL_TEXT: u64 = 64 << 20;
