//! What the sizes that a file claims may be.

/// What deflate makes of nothing but zeros, and somewhat more: no data is larger than this times what is stored of it.
pub(crate) const MAX_COMPRESSION: u64 = 1100;
