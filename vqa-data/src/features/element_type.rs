//! How features are stored.

/// The element type of stored features. In memory they are always float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ElementType {
    /// float32: four bytes per value.
    #[default]
    F32,
    /// float16: two bytes per value, half the disk space and half the reading; 11 bits of precision, at most 65504.
    F16,
}

impl ElementType {
    /// Bytes per value.
    pub fn size(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::F16 => 2,
        }
    }
}
