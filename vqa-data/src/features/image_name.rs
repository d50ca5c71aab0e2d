//! The image id in a name.

/// The number that a name ends in: 42 of `COCO_val2014_000000000042`.
pub(crate) fn number_at_end(name: &str) -> Option<u64> {
    name[name.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().ok()
}
