//! How regions are made with a backbone.

use vqa_data::features::Filter;

use crate::backbone::backbone::{Backbone, BackboneInfo, BackboneKind};
use crate::backbone::detections::Selection;
use crate::backbone::preprocessing::Preprocessing;

/// Which regions a backbone's output becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Regions {
    /// A map's cells, row by row. A cell is an even share of the picture, and its feature the mean of all places of the
    /// map that the share touches, which is PyTorch's adaptive average pooling.
    Cells {
        /// Rows and columns.
        grid: [u32; 2],
        /// Whether the whole picture is a region too, the last one, with the mean of the map.
        whole: bool,
    },
    /// A detector's boxes.
    Boxes(Selection),
}

/// How a [`BackboneExtractor`](crate::backbone::BackboneExtractor) makes regions.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractorOptions {
    /// How a picture becomes the network's input.
    pub preprocessing: Preprocessing,
    /// How it is resized.
    pub filter: Filter,
    /// What becomes of the output.
    pub regions: Regions,
}

impl ExtractorOptions {
    /// As the backbone wants it, resized as its own authors do. A map becomes 5 x 7 cells and the whole picture; of a
    /// detector's boxes 10 to 100 are kept.
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
