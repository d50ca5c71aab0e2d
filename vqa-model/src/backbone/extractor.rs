//! Extracts regions with a backbone.

use std::sync::{Mutex, PoisonError};

use image::RgbImage;
use tch::{Device, Kind, Tensor};
use vqa_data::features::{Extractor, ExtractorInfo, ImageRegions, Prepared, RegionCount};

use crate::backbone::backbone::{Backbone, BackboneInfo, BackboneKind, BackboneOutput};
use crate::backbone::detections::{Detections, Selection};
use crate::backbone::extractor_options::{ExtractorOptions, Regions};
use crate::backbone::extractor_settings::ExtractorSettings;
use crate::error::{Error, Result};
use crate::memory::or_out_of_memory;

/// Extracts regions from pictures with a [`Backbone`].
pub struct BackboneExtractor {
    /// Behind a mutex, since its tensors may be used by one thread at a time only.
    backbone: Mutex<Box<dyn Backbone>>,
    channels: usize,
    device: Device,
    options: ExtractorOptions,
    info: ExtractorInfo,
}

impl BackboneExtractor {
    /// Creates an extractor from a backbone.
    ///
    /// # Errors
    ///
    /// When the options ask for cells from a detector, for boxes from a map, or for no regions at all.
    pub fn new(backbone: Box<dyn Backbone>, options: ExtractorOptions) -> Result<BackboneExtractor> {
        let BackboneInfo { name, kind, channels, .. } = backbone.info();
        let problem = match (kind, options.regions) {
            (BackboneKind::Map, Regions::Boxes(_)) => "returns a feature map, with no boxes to choose from",
            (BackboneKind::Detector, Regions::Cells { .. }) => "is a detector: its boxes are the regions, not cells",
            (_, Regions::Cells { grid: [0, _] | [_, 0], .. }) => "cannot make regions from a grid without cells",
            (_, Regions::Boxes(Selection { max_boxes: 0, .. })) => "cannot make regions from 0 boxes",
            _ => {
                let info = ExtractorSettings::new(backbone.info(), &options).info();
                let (channels, device) = (*channels, backbone.device());
                return Ok(BackboneExtractor { backbone: Mutex::new(backbone), channels, device, options, info });
            }
        };
        Err(Error::Backbone(format!("{name} {problem}")))
    }

    /// Extracts the regions of pictures that have been resized to the same size, each given with its original size.
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
                let of = |(found, size)| {
                    let frame = Frame { input: [width, height], picture: size };
                    frame.regions(&selection.select(&frame.with_area(found)))
                };
                Ok(found.iter().zip(sizes).map(of).collect())
            }
            // `new` has checked that the backbone's kind fits the options.
            _ => Err(Error::Backbone("the network sometimes returns a map and sometimes boxes".to_owned())),
        }
    }

    /// Turns an error into one of `vqa-data`. A full memory is no fault of the pictures: what was extracted before is
    /// kept, and a smaller batch may succeed.
    fn data_error(&self, error: Error) -> vqa_data::Error {
        match error {
            Error::Data(error) => error,
            Error::OutOfMemory => {
                let name = self.backbone.lock().unwrap_or_else(PoisonError::into_inner).info().name.clone();
                vqa_data::Error::transient(Error::BackboneOutOfMemory { name })
            }
            error @ Error::BackboneOutOfMemory { .. } => vqa_data::Error::transient(error),
            error => vqa_data::Error::other(error),
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
        match (self.options.regions, self.device) {
            (Regions::Boxes(_), _) => 1,
            (Regions::Cells { .. }, Device::Cpu) => 16,
            (Regions::Cells { .. }, _) => 64,
        }
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
        // Pictures that keep their aspect ratio may differ in size.
        for batch in pictures.chunk_by(|(a, _), (b, _)| a.dimensions() == b.dimensions()) {
            let made = or_out_of_memory(|| self.extract_batch(batch)).and_then(|made| made);
            regions.extend(made.map_err(|error| self.data_error(error))?);
        }
        Ok(regions)
    }
}

/// Pools a map [B, C, h, w] into regions [B, K, C].
fn pooled(map: &Tensor, [rows, columns]: [u32; 2], whole: bool) -> Tensor {
    let cells = map.adaptive_avg_pool2d([i64::from(rows), i64::from(columns)]).flatten(2, 3).transpose(1, 2);
    if !whole {
        return cells;
    }
    let mean = map.mean_dim([2i64, 3].as_slice(), false, Kind::Float).unsqueeze(1);
    Tensor::cat(&[cells, mean], 1)
}

/// Returns the boxes of a grid's cells, followed by the full picture's if `whole`, [K, 4]: x1 y1 x2 y2 in pixels.
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

/// A picture, and the input of the network that it was resized to.
#[derive(Clone, Copy)]
struct Frame {
    /// Width and height of the input.
    input: [u32; 2],
    /// Width and height of the picture.
    picture: [u32; 2],
}

impl Frame {
    /// Returns what was found without the boxes that have no area inside the picture: they must not take the places of
    /// others.
    fn with_area(self, found: &Detections) -> Detections {
        let corners = to_vec(&found.boxes);
        let boxes = corners.chunks_exact(4).enumerate();
        let index: Vec<i64> = boxes
            .filter(|(_, corners)| {
                let [x1, y1, x2, y2] = self.in_picture(corners);
                let is_empty = x2 <= x1 || y2 <= y1;
                // Boxes with NaN are kept, for later checks to find.
                !is_empty
            })
            .map(|(i, _)| i as i64)
            .collect();
        let index = Tensor::from_slice(&index);
        let [boxes, features, scores] =
            [&found.boxes, &found.features, &found.scores].map(|rows| rows.index_select(0, &index));
        Detections { boxes, features, scores }
    }

    /// Returns what was found as regions of the picture.
    fn regions(self, found: &Detections) -> ImageRegions {
        let corners = to_vec(&found.boxes);
        let boxes = corners.chunks_exact(4).flat_map(|corners| self.in_picture(corners)).collect();
        ImageRegions { features: to_vec(&found.features), boxes }
    }

    /// Converts the corners of a box from pixels of the input to pixels of the picture.
    fn in_picture(self, corners: &[f32]) -> [f32; 4] {
        std::array::from_fn(|i| {
            let [picture, input] = [self.picture[i % 2], self.input[i % 2]].map(|side| side as f32);
            (corners[i] * (picture / input)).clamp(0.0, picture)
        })
    }
}

fn to_vec(values: &Tensor) -> Vec<f32> {
    let flat = values.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    Vec::try_from(flat).expect("a flat float tensor on the CPU")
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use vqa_data::features::{ElementType, Extraction, list_images};
    use vqa_data::files::IfExists;

    use super::*;
    use crate::backbone::preprocessing::{ChannelOrder, InputSize, Preprocessing};
    use crate::feed::options::Precision;

    /// A backbone made from a function.
    struct Fake {
        info: BackboneInfo,
        forward: fn(&Tensor) -> BackboneOutput,
    }

    impl Backbone for Fake {
        fn info(&self) -> &BackboneInfo {
            &self.info
        }

        fn device(&self) -> Device {
            Device::Cpu
        }

        fn forward(&self, pictures: &Tensor) -> Result<BackboneOutput> {
            Ok((self.forward)(pictures))
        }
    }

    fn fake(kind: BackboneKind, size: InputSize, forward: fn(&Tensor) -> BackboneOutput) -> Box<dyn Backbone> {
        let preprocessing =
            Preprocessing { size, channel_order: ChannelOrder::Rgb, scale: 1.0, mean: [0.0; 3], deviation: [1.0; 3] };
        let info = BackboneInfo {
            name: "fake.pt".to_owned(),
            weights: "fake.pt".into(),
            sha256: "00".to_owned(),
            kind,
            channels: 3,
            precision: Precision::Fp32,
            preprocessing,
        };
        Box::new(Fake { info, forward })
    }

    /// Returns the pixels themselves as the map.
    fn identity(pictures: &Tensor) -> BackboneOutput {
        BackboneOutput::Map(pictures.shallow_clone())
    }

    fn extractor(backbone: Box<dyn Backbone>, regions: Regions) -> BackboneExtractor {
        let options = ExtractorOptions { regions, ..ExtractorOptions::of(&*backbone) };
        BackboneExtractor::new(backbone, options).unwrap()
    }

    /// Expected values from PyTorch: `adaptive_avg_pool2d(torch.arange(35.).view(1, 1, 5, 7), (2, 3))`, and the mean.
    #[test]
    fn a_map_becomes_cells() {
        let size = InputSize::Fixed { height: 5, width: 7 };
        let cells = Regions::Cells { grid: [2, 3], whole: true };
        let extractor = extractor(fake(BackboneKind::Map, size, identity), cells);
        assert_eq!((extractor.n_regions(), extractor.feature_dim()), (RegionCount::Fixed(7), 3));
        // A picture that has the input's size already, and a plain one that must be resized.
        let ramp = RgbImage::from_fn(7, 5, |x, y| Rgb([(y * 7 + x) as u8, 9, (x + 1) as u8]));
        let plain = RgbImage::from_pixel(70, 20, Rgb([1, 2, 3]));
        let prepared = [&ramp, &plain].map(|picture| extractor.prepare(picture).unwrap());
        let [of_ramp, of_plain] = extractor.extract(&prepared).unwrap().try_into().unwrap();
        let red: Vec<f32> = of_ramp.features.iter().step_by(3).copied().collect();
        assert_eq!(red, [8.0, 10.0, 12.0, 22.0, 24.0, 26.0, 17.0]);
        assert_eq!(of_ramp.features[1..].iter().step_by(3).copied().collect::<Vec<_>>(), [9.0; 7]);
        assert_eq!(of_plain.features, [1.0, 2.0, 3.0].repeat(7));
        assert_eq!(of_plain.boxes[..8], [0.0, 0.0, 70.0 / 3.0, 10.0, 70.0 / 3.0, 0.0, 140.0 / 3.0, 10.0]);
        assert_eq!(of_plain.boxes[20..], [140.0 / 3.0, 10.0, 70.0, 20.0, 0.0, 0.0, 70.0, 20.0]);
        // A picture's regions are the same if it is extracted alone.
        assert_eq!(extractor.regions(&plain).unwrap(), of_plain);
        assert!(
            extractor.regions(&RgbImage::from_pixel(1, 1, Rgb([5, 5, 5]))).unwrap().features.iter().all(|&x| x == 5.0)
        );
    }

    #[test]
    fn a_detectors_boxes_are_those_of_the_picture() {
        let forward = |pictures: &Tensor| {
            let n = pictures.size()[0];
            let detections = (0..n).map(|_| Detections {
                // In an input of 20 x 10 pixels: the best box extends beyond it, and the last is entirely outside.
                boxes: Tensor::from_slice(&[0f32, 0.0, 10.0, 5.0, 15.0, 5.0, 25.0, 12.0, 30.0, 0.0, 40.0, 9.0])
                    .view([3, 4]),
                features: Tensor::from_slice(&[1f32, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]).view([3, 3]),
                scores: Tensor::from_slice(&[0.5f32, 0.9, 0.8]).view([3, 1]),
            });
            BackboneOutput::Detections(detections.collect())
        };
        let size = InputSize::Sides { short: 10, long: 20 };
        let extractor = extractor(fake(BackboneKind::Detector, size, forward), Regions::Boxes(Selection::fixed(3)));
        assert_eq!(extractor.n_regions(), RegionCount::AtMost(3));
        // Two shapes, so that they cannot be one batch; the first picture is twice as large as the input.
        let pictures = [RgbImage::new(40, 20), RgbImage::new(20, 20)];
        let prepared = pictures.map(|picture| extractor.prepare(&picture).unwrap());
        let [wide, square] = extractor.extract(&prepared).unwrap().try_into().unwrap();
        assert_eq!(wide.features, [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]);
        assert_eq!(wide.boxes, [30.0, 10.0, 40.0, 20.0, 0.0, 0.0, 20.0, 10.0]);
        assert_eq!(square.boxes, [0.0, 0.0, 20.0, 10.0]);
    }

    #[test]
    fn boxes_without_area_take_no_places() {
        let forward = |_: &Tensor| {
            let boxes = [
                [120f32, 0.0, 140.0, 20.0],
                [0.0, 0.0, 10.0, 10.0],
                [20.0, 20.0, 30.0, 30.0],
                [40.0, 40.0, 50.0, 50.0],
            ];
            let scores = Tensor::from_slice(&[0.9f32, 0.8, 0.7, 0.6]).view([4, 1]);
            let features = scores.repeat([1, 3]);
            let boxes = Tensor::from_slice(boxes.as_flattened()).view([4, 4]);
            BackboneOutput::Detections(vec![Detections { boxes, features, scores }])
        };
        let size = InputSize::Fixed { height: 100, width: 100 };
        let extractor = extractor(fake(BackboneKind::Detector, size, forward), Regions::Boxes(Selection::fixed(3)));
        let regions = extractor.regions(&RgbImage::new(100, 100)).unwrap();
        assert_eq!(regions.boxes[..4], [0.0, 0.0, 10.0, 10.0]);
        assert_eq!(regions.boxes[8..], [40.0, 40.0, 50.0, 50.0]);
        assert_eq!(regions.features.len(), 3 * 3);
    }

    #[test]
    fn after_a_full_memory_a_smaller_batch_resumes() {
        // Memory for one white picture, but not for two pictures of which one is white.
        let forward = |pictures: &Tensor| {
            if pictures.size()[0] > 1 && pictures.max().double_value(&[]) == 255.0 {
                drop(Tensor::zeros([1 << 46], (Kind::Float, Device::Cpu)));
            }
            identity(pictures)
        };
        let size = InputSize::Fixed { height: 2, width: 2 };
        let backbone = fake(BackboneKind::Map, size, forward);
        let extractor = extractor(backbone, Regions::Cells { grid: [1, 1], whole: false });
        let directory = tempfile::tempdir().unwrap();
        for (id, value) in [(1, 10), (2, 20), (3, 30), (4, 255)] {
            RgbImage::from_pixel(2, 2, Rgb([value; 3])).save(directory.path().join(format!("{id}.png"))).unwrap();
        }
        let pictures = list_images(directory.path()).unwrap();
        let out = directory.path().join("f.h5");
        let write = |batch_size| {
            let element_type = ElementType::F32;
            let extraction =
                Extraction { extractor: &extractor, element_type, shard: None, batch_size: Some(batch_size) };
            extraction.write(&pictures, &out, IfExists::Refuse, &|_| {})
        };
        let error = write(2).unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("fake.pt: out of memory"), "{error}");
        assert_eq!(write(1).unwrap().n_extracted, 2);
        let full = Error::BackboneOutOfMemory { name: "fake.pt".to_owned() };
        assert!(extractor.data_error(full).is_retryable());
        assert!(!extractor.data_error(Error::Backbone("an odd map".to_owned())).is_retryable());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let size = InputSize::Fixed { height: 2, width: 2 };
        for (kind, regions, words) in [
            (BackboneKind::Map, Regions::Boxes(Selection::fixed(3)), "returns a feature map"),
            (BackboneKind::Detector, Regions::Cells { grid: [1, 1], whole: false }, "is a detector"),
            (BackboneKind::Map, Regions::Cells { grid: [0, 1], whole: true }, "without cells"),
            (BackboneKind::Detector, Regions::Boxes(Selection::fixed(0)), "0 boxes"),
        ] {
            let backbone = fake(kind, size, identity);
            let options = ExtractorOptions { regions, ..ExtractorOptions::of(&*backbone) };
            let error = BackboneExtractor::new(backbone, options).err().unwrap().to_string();
            assert!(error.starts_with("fake.pt") && error.contains(words), "{error}");
        }
        let nan = |pictures: &Tensor| BackboneOutput::Map(pictures / 0.0 - 1.0 / 0.0);
        let backbone = fake(BackboneKind::Map, size, nan);
        let extractor = extractor(backbone, Regions::Cells { grid: [1, 1], whole: false });
        let error = extractor.regions(&RgbImage::new(2, 2)).unwrap_err().to_string();
        assert!(error.contains("NaN or infinite"), "{error}");
    }

    #[test]
    fn its_description_has_all_that_makes_it() {
        let size = InputSize::Fixed { height: 224, width: 320 };
        let made = extractor(fake(BackboneKind::Map, size, identity), Regions::Cells { grid: [5, 7], whole: true });
        let expected = r#"{"kind": "backbone", "backbone": "fake.pt", "sha256": "00", "precision": "fp32",
            "size": [224, 320], "filter": "bilinear", "channels": "RGB", "scale": 1.0, "mean": [0.0, 0.0, 0.0],
            "deviation": [1.0, 1.0, 1.0], "grid": [5, 7], "whole": true}"#;
        assert_eq!(made.info(), ExtractorInfo::parse(expected));
        let settings: ExtractorSettings = ExtractorInfo::parse(&made.info().to_string()).settings().unwrap();
        assert_eq!(settings.options(), made.options);

        let sides = InputSize::Sides { short: 600, long: 1000 };
        let selection = Selection { min_score: 0.25, max_overlap: 0.5, min_boxes: 3, max_boxes: 36 };
        let made = extractor(fake(BackboneKind::Detector, sides, identity), Regions::Boxes(selection));
        let settings: ExtractorSettings = made.info().settings().unwrap();
        assert_eq!(settings.options(), made.options);
    }
}
