//! How regions are extracted with a backbone.

use vqa_data::features::Filter;

use crate::backbone::backbone::{Backbone, BackboneInfo, BackboneKind};
use crate::backbone::detections::Selection;
use crate::backbone::preprocessing::Preprocessing;

/// How a backbone's output becomes regions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Regions {
    /// A grid of cells, row by row. The cells divide the picture evenly, and a cell's feature is the mean over all
    /// positions of the map that it touches: PyTorch's adaptive average pooling.
    Cells {
        /// Rows and columns.
        grid: [u32; 2],
        /// Whether the full picture is added as the last region, with the mean of the map as its feature.
        whole: bool,
    },
    /// A detector's boxes.
    Boxes(Selection),
}

/// How a [`BackboneExtractor`](crate::backbone::BackboneExtractor) extracts regions.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractorOptions {
    /// How a picture becomes the network's input.
    pub preprocessing: Preprocessing,
    /// The filter that it is resized with.
    pub filter: Filter,
    /// How the output becomes regions.
    pub regions: Regions,
}

impl ExtractorOptions {
    /// Returns a backbone's default options: its own preprocessing, and the resizing filter that its authors use. A map
    /// becomes 5 x 7 cells and the full picture; of a detector's boxes, 10 to 100 are kept.
    pub fn of(backbone: &dyn Backbone) -> ExtractorOptions {
        let BackboneInfo { name, kind, preprocessing, .. } = backbone.info();
        // EfficientNet's preprocessing is bicubic, torchvision's transforms are bilinear.
        let filter = if name.starts_with("efficientnet") { Filter::Bicubic } else { Filter::Bilinear };
        let regions = match kind {
            BackboneKind::Map => Regions::Cells { grid: [5, 7], whole: true },
            BackboneKind::Detector => Regions::Boxes(Selection::adaptive()),
        };
        ExtractorOptions { preprocessing: preprocessing.clone(), filter, regions }
    }
}
