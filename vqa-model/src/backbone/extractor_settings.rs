//! How a backbone's regions were extracted, as recorded in feature files and checkpoints.

use serde::{Deserialize, Serialize};
use vqa_data::features::{ExtractorInfo, Filter};

use crate::backbone::backbone::BackboneInfo;
use crate::backbone::detections::Selection;
use crate::backbone::extractor_options::{ExtractorOptions, Regions};
use crate::backbone::preprocessing::{ChannelOrder, InputSize, Preprocessing, PreprocessingOptions};
use crate::feed::options::Precision;

/// Everything that affects the features of a [`BackboneExtractor`](crate::backbone::BackboneExtractor): the fields of
/// its [`ExtractorInfo`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ExtractorSettings {
    kind: String,
    /// The network's name.
    pub(super) backbone: String,
    /// The SHA-256 of its weights, in hexadecimal.
    pub(super) sha256: String,
    /// The number format that it computes in.
    pub(super) precision: Precision,
    size: Size,
    filter: Filter,
    channels: ChannelOrder,
    scale: f64,
    mean: [f64; 3],
    deviation: [f64; 3],
    #[serde(flatten)]
    regions: RegionSettings,
}

/// An [`InputSize`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Size {
    /// Height and width.
    Fixed([u32; 2]),
    Sides {
        short: u32,
        long: u32,
    },
}

/// [`Regions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum RegionSettings {
    Cells { grid: [u32; 2], whole: bool },
    Boxes { min_score: f64, max_overlap: f64, min_boxes: usize, max_boxes: usize },
}

impl ExtractorSettings {
    /// The value of [`ExtractorInfo::kind`] for these settings.
    pub(super) const KIND: &str = "backbone";

    pub(super) fn new(backbone: &BackboneInfo, options: &ExtractorOptions) -> ExtractorSettings {
        let Preprocessing { size, channel_order, scale, mean, deviation } = options.preprocessing;
        ExtractorSettings {
            kind: ExtractorSettings::KIND.to_owned(),
            backbone: backbone.name.clone(),
            sha256: backbone.sha256.clone(),
            precision: backbone.precision,
            size: match size {
                InputSize::Fixed { height, width } => Size::Fixed([height, width]),
                InputSize::Sides { short, long } => Size::Sides { short, long },
            },
            filter: options.filter,
            channels: channel_order,
            scale,
            mean,
            deviation,
            regions: match options.regions {
                Regions::Cells { grid, whole } => RegionSettings::Cells { grid, whole },
                Regions::Boxes(Selection { min_score, max_overlap, min_boxes, max_boxes }) => {
                    RegionSettings::Boxes { min_score, max_overlap, min_boxes, max_boxes }
                }
            },
        }
    }

    pub(super) fn info(&self) -> ExtractorInfo {
        ExtractorInfo::of(self)
    }

    /// Returns the options with which a network is opened to get this preprocessing.
    pub(super) fn preprocessing_options(&self) -> PreprocessingOptions {
        let Preprocessing { size, channel_order, scale, mean, deviation } = self.preprocessing();
        let sizes = match size {
            InputSize::Fixed { height, width } => {
                PreprocessingOptions { size: Some([height, width]), ..PreprocessingOptions::default() }
            }
            InputSize::Sides { short, long } => PreprocessingOptions {
                short_side: Some(short),
                long_side: Some(long),
                ..PreprocessingOptions::default()
            },
        };
        PreprocessingOptions {
            channel_order: Some(channel_order),
            scale: Some(scale),
            mean: Some(mean),
            deviation: Some(deviation),
            ..sizes
        }
    }

    fn preprocessing(&self) -> Preprocessing {
        let size = match self.size {
            Size::Fixed([height, width]) => InputSize::Fixed { height, width },
            Size::Sides { short, long } => InputSize::Sides { short, long },
        };
        Preprocessing {
            size,
            channel_order: self.channels,
            scale: self.scale,
            mean: self.mean,
            deviation: self.deviation,
        }
    }

    /// Returns the options that these settings were created from.
    pub(super) fn options(&self) -> ExtractorOptions {
        let regions = match self.regions {
            RegionSettings::Cells { grid, whole } => Regions::Cells { grid, whole },
            RegionSettings::Boxes { min_score, max_overlap, min_boxes, max_boxes } => {
                Regions::Boxes(Selection { min_score, max_overlap, min_boxes, max_boxes })
            }
        };
        ExtractorOptions { preprocessing: self.preprocessing(), filter: self.filter, regions }
    }
}
