//! What the sizes that a file claims may be.

/// What deflate makes of nothing but zeros, and somewhat more: no data is larger than this times what is stored of it.
#[cfg(feature = "hdf5")]
pub(crate) const MAX_COMPRESSION: u64 = 1100;

/// What gzip makes of the most repetitive text that people have reason to write, and somewhat more: indented
/// annotations in which everybody said "yes" shrink to a 150th.
pub(crate) const MAX_TEXT_COMPRESSION: u64 = 256;

/// A text of at most so many bytes may have been compressed by any factor.
pub(crate) const SMALL_TEXT: u64 = 64 << 20;
