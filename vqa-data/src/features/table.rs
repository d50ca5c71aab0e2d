//! Everything in a feature file except the features and boxes.

use std::collections::BTreeMap;

use crate::features::element_type::ElementType;
use crate::features::extractor_info::ExtractorInfo;

/// Everything in a feature file except the features and boxes. Two tables are equal if files with them are: attributes
/// are compared by their bits, so that NaN equals itself.
#[derive(Debug, Clone, Default)]
pub struct FeatureTable {
    /// The images, in order of rows.
    pub images: Vec<ImageEntry>,
    /// Length of a feature vector, D.
    pub feature_dim: usize,
    /// How the features are stored.
    pub element_type: ElementType,
    /// How the regions were extracted, if known.
    pub extractor: Option<ExtractorInfo>,
    /// Named values about where the features come from: a grid, a mean.
    pub attributes: BTreeMap<String, Vec<f64>>,
}

/// An image of a [`FeatureTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageEntry {
    /// The image's id.
    pub image_id: u64,
    /// Its width and height in pixels, if known.
    pub size: Option<[u32; 2]>,
    /// The number of its regions, K.
    pub n_regions: usize,
}

impl PartialEq for FeatureTable {
    fn eq(&self, other: &FeatureTable) -> bool {
        let FeatureTable { images, feature_dim, element_type, extractor, attributes } = self;
        *images == other.images
            && *feature_dim == other.feature_dim
            && *element_type == other.element_type
            && *extractor == other.extractor
            && attributes.keys().eq(other.attributes.keys())
            && attributes.values().zip(other.attributes.values()).all(|(values, others)| same_bits(values, others))
    }
}

/// Whether two attributes have the same values, NaN included.
pub(super) fn same_bits(values: &[f64], others: &[f64]) -> bool {
    values.iter().map(|x| x.to_bits()).eq(others.iter().map(|x| x.to_bits()))
}

impl FeatureTable {
    /// The first region and the end of each image's regions among those of all images.
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
