//! All of a feature file but its numbers.

use std::collections::BTreeMap;

/// The element type that `image_features` is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ElementType {
    /// Four bytes a number.
    #[default]
    F32,
    /// Two bytes a number: half the disk and half the reading, 11 bits of precision.
    F16,
}

/// All of a feature file but its numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeatureTable {
    /// The images, in order of rows.
    pub images: Vec<ImageEntry>,
    /// Length of a feature vector, D.
    pub feature_dim: usize,
    /// How the features are stored.
    pub element_type: ElementType,
    /// Numbers about the source.
    pub attributes: BTreeMap<String, Vec<f64>>,
}

/// An image of a [`FeatureTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageEntry {
    /// The image.
    pub image_id: u64,
    /// Its width and height in pixels, where they are known.
    pub size: Option<[u32; 2]>,
    /// The number of its regions, K.
    pub n_regions: usize,
}

impl ElementType {
    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::F16 => 2,
        }
    }
}

impl FeatureTable {
    /// First and end of each image's regions among those of all images.
    pub(super) fn region_ranges(&self) -> impl Iterator<Item = [u64; 2]> {
        let mut end = 0;
        self.images.iter().map(move |image| {
            let first = end;
            end += image.n_regions as u64;
            [first, end]
        })
    }

    /// K, if all images have the same number of regions: then the layout is [N, K, D], and otherwise [total, D].
    pub(super) fn fixed_regions(&self) -> Option<usize> {
        let first = self.images.first().map_or(0, |image| image.n_regions);
        self.images.iter().all(|image| image.n_regions == first).then_some(first)
    }
}
