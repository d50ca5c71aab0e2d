//! Regions from a backbone.

use std::sync::{Mutex, PoisonError};

use image::RgbImage;
use tch::{Device, Kind, Tensor};
use vqa_data::features::{Extractor, ExtractorInfo, Filter, ImageRegions, Prepared, RegionCount};

use crate::backbone::backbone::{Backbone, BackboneInfo, BackboneKind, BackboneOutput};
use crate::backbone::detections::{Detections, Selection};
use crate::backbone::extractor_settings::ExtractorSettings;
use crate::backbone::open::NAMES;
use crate::backbone::preprocessing::{InputSize, Preprocessing};
use crate::error::{Error, Result};
use crate::memory::or_out_of_memory;

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

/// How a [`BackboneExtractor`] makes regions.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractorOptions {
    /// How a picture becomes the network's input.
    pub preprocessing: Preprocessing,
    /// How it is resized.
    pub filter: Filter,
    /// What becomes of the output.
    pub regions: Regions,
    /// Pictures in a batch.
    pub batch_size: usize,
}

impl ExtractorOptions {
    /// As the backbone wants it, resized as its own authors do. A map becomes 5 x 7 cells and the whole picture; of a
    /// detector's boxes 10 to 100 are kept. The networks that are built in take pictures of any size, and here 224 x 320
    /// pixels, which is nearer to the shape of most photos than the squares that they were trained on.
    pub fn of(backbone: &dyn Backbone) -> ExtractorOptions {
        let BackboneInfo { name, kind, preprocessing, .. } = backbone.info();
        // EfficientNet's preprocessing is bicubic, torchvision's transforms are bilinear.
        let filter = if name.starts_with("efficientnet") { Filter::Bicubic } else { Filter::Bilinear };
        let regions = match kind {
            BackboneKind::Map => Regions::Cells { grid: [5, 7], whole: true },
            BackboneKind::Detector => Regions::Boxes(Selection::adaptive()),
        };
        let mut preprocessing = preprocessing.clone();
        if NAMES.contains(&&**name) {
            preprocessing.size = InputSize::Fixed { height: 224, width: 320 };
        }
        let batch_size = match (kind, backbone.device()) {
            (BackboneKind::Detector, _) => 1,
            (BackboneKind::Map, Device::Cpu) => 16,
            (BackboneKind::Map, _) => 64,
        };
        ExtractorOptions { preprocessing, filter, regions, batch_size }
    }
}

/// Makes regions of pictures with a [`Backbone`].
pub struct BackboneExtractor {
    /// Its tensors are one thread's at a time.
    backbone: Mutex<Box<dyn Backbone>>,
    channels: usize,
    device: Device,
    options: ExtractorOptions,
    info: ExtractorInfo,
}

impl BackboneExtractor {
    /// An extractor with a backbone.
    ///
    /// # Errors
    ///
    /// When cells are wanted of a detector or boxes of a map, or there are none.
    pub fn new(backbone: Box<dyn Backbone>, options: ExtractorOptions) -> Result<BackboneExtractor> {
        let BackboneInfo { name, kind, channels, .. } = backbone.info();
        let problem = match (kind, options.regions) {
            (BackboneKind::Map, Regions::Boxes(_)) => "gives a map of features, and no boxes to choose from",
            (BackboneKind::Detector, Regions::Cells { .. }) => "is a detector: its boxes are the regions, not cells",
            (_, Regions::Cells { grid: [0, _] | [_, 0], .. }) => "makes no regions of a grid without cells",
            (_, Regions::Boxes(Selection { max_boxes: 0, .. })) => "makes no regions of 0 boxes",
            _ => {
                let info = ExtractorSettings::new(backbone.info(), &options).info();
                let (channels, device) = (*channels, backbone.device());
                return Ok(BackboneExtractor { backbone: Mutex::new(backbone), channels, device, options, info });
            }
        };
        Err(Error::Backbone(format!("{name} {problem}")))
    }

    /// The regions of pictures that were resized to one size.
    fn extract_batch(&self, pictures: &[(&RgbImage, [u32; 2])]) -> Result<Vec<ImageRegions>> {
        let Some(&(first, _)) = pictures.first() else { return Ok(Vec::new()) };
        let (width, height) = first.dimensions();
        let bytes: Vec<u8> = pictures.iter().flat_map(|(pixels, _)| pixels.as_raw()).copied().collect();
        let _no_grad = tch::no_grad_guard();
        let shape = [pictures.len() as i64, i64::from(height), i64::from(width), 3];
        let pixels = Tensor::from_slice(&bytes).view(shape).to_device(self.device);
        let input = self.options.preprocessing.standardise(&pixels);
        let output = self.backbone.lock().unwrap_or_else(PoisonError::into_inner).forward(&input)?;
        match (output, self.options.regions) {
            (BackboneOutput::Map(map), Regions::Cells { grid, whole }) => {
                let features = to_vec(&pooled(&map, grid, whole));
                let sizes = pictures.iter().map(|&(_, size)| size);
                let per_picture = features.chunks(features.len() / pictures.len()).zip(sizes);
                Ok(per_picture
                    .map(|(features, size)| ImageRegions {
                        features: features.to_vec(),
                        boxes: boxes(grid, whole, size),
                    })
                    .collect())
            }
            (BackboneOutput::Detections(found), Regions::Boxes(selection)) => {
                let sizes = pictures.iter().map(|&(_, size)| size);
                let of = |(found, size)| detected(&selection.select(found), [width, height], size);
                Ok(found.iter().zip(sizes).map(of).collect())
            }
            // Its kind is known from the start.
            _ => Err(Error::Backbone("the network gives sometimes a map and sometimes boxes".to_owned())),
        }
    }
}

impl Extractor for BackboneExtractor {
    fn info(&self) -> ExtractorInfo {
        self.info.clone()
    }

    fn feature_dim(&self) -> usize {
        self.channels
    }

    fn n_regions(&self) -> RegionCount {
        match self.options.regions {
            Regions::Cells { grid: [rows, columns], whole } => {
                RegionCount::Fixed(rows as usize * columns as usize + usize::from(whole))
            }
            Regions::Boxes(selection) => RegionCount::AtMost(selection.max_boxes.max(selection.min_boxes)),
        }
    }

    fn batch_size(&self) -> usize {
        self.options.batch_size
    }

    fn prepare(&self, picture: &RgbImage) -> Result<Prepared, String> {
        let (width, height) = picture.dimensions();
        let wanted = self.options.preprocessing.size.of([height, width]);
        Ok(Prepared::Pixels { pixels: self.options.filter.resize(picture, wanted), size: [width, height] })
    }

    fn extract(&self, pictures: &[Prepared]) -> vqa_data::Result<Vec<ImageRegions>> {
        let pixels = |prepared| match prepared {
            &Prepared::Pixels { ref pixels, size } => Ok((pixels, size)),
            Prepared::Regions(_) => Err(vqa_data::Error::other("these pictures were prepared for another extractor")),
        };
        let pictures = pictures.iter().map(pixels).collect::<vqa_data::Result<Vec<_>>>()?;
        let mut regions = Vec::with_capacity(pictures.len());
        // Those that keep their aspect ratio differ.
        for batch in pictures.chunk_by(|(a, _), (b, _)| a.dimensions() == b.dimensions()) {
            let made = or_out_of_memory(|| self.extract_batch(batch)).and_then(|made| made);
            regions.extend(made.map_err(|error| match error {
                Error::Data(error) => error,
                Error::OutOfMemory => vqa_data::Error::other(
                    "out of memory: take fewer pictures at once (--batch-size), smaller ones (--size), or another \
                     --device",
                ),
                error => vqa_data::Error::other(error),
            })?);
        }
        Ok(regions)
    }
}

/// A map [B, C, h, w] as regions, [B, K, C].
fn pooled(map: &Tensor, [rows, columns]: [u32; 2], whole: bool) -> Tensor {
    let cells = map.adaptive_avg_pool2d([i64::from(rows), i64::from(columns)]).flatten(2, 3).transpose(1, 2);
    if !whole {
        return cells;
    }
    let mean = map.mean_dim([2i64, 3].as_slice(), false, Kind::Float).unsqueeze(1);
    Tensor::cat(&[cells, mean], 1)
}

/// The boxes of a grid's cells, and of the whole picture, [K, 4]: x1 y1 x2 y2 in pixels.
fn boxes([rows, columns]: [u32; 2], whole: bool, [width, height]: [u32; 2]) -> Vec<f32> {
    let edge = |i: u32, n: u32, length: u32| (f64::from(i) * f64::from(length) / f64::from(n)) as f32;
    let mut boxes = Vec::new();
    for row in 0..rows {
        let [y1, y2] = [row, row + 1].map(|i| edge(i, rows, height));
        for column in 0..columns {
            let [x1, x2] = [column, column + 1].map(|i| edge(i, columns, width));
            boxes.extend([x1, y1, x2, y2]);
        }
    }
    if whole {
        boxes.extend([0.0, 0.0, width as f32, height as f32]);
    }
    boxes
}

/// Boxes in the network's input, of `input` width and height, as regions of a picture of `size`. Those without an area
/// in it are no regions.
fn detected(found: &Detections, input: [u32; 2], size: [u32; 2]) -> ImageRegions {
    let (corners, features) = (to_vec(&found.boxes), to_vec(&found.features));
    let dim = features.len() / (corners.len() / 4).max(1);
    let in_picture = |corner: f32, axis: usize| {
        let [size, input] = [size[axis], input[axis]].map(|side| side as f32);
        (corner * (size / input)).clamp(0.0, size)
    };
    let mut regions = ImageRegions::default();
    for (corners, features) in corners.chunks_exact(4).zip(features.chunks(dim.max(1))) {
        let corners: [f32; 4] = std::array::from_fn(|i| in_picture(corners[i], i % 2));
        // NaN too is left for those who look for it.
        if corners[2] <= corners[0] || corners[3] <= corners[1] {
            continue;
        }
        regions.boxes.extend(corners);
        regions.features.extend(features);
    }
    regions
}

fn to_vec(values: &Tensor) -> Vec<f32> {
    let flat = values.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    Vec::try_from(flat).expect("a flat float tensor on the CPU")
}
