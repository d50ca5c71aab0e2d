//! How a picture becomes the input of a network.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vqa_data::files::read_text;

use crate::error::{Error, Result};

/// How a picture becomes the input of a network: it is resized, its channels are put in order, and each value of 0 to
/// 255 becomes (value x scale - mean) / deviation.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// The size that pictures are resized to.
    pub size: InputSize,
    /// The order of the channels.
    pub channel_order: ChannelOrder,
    /// The factor that values of 0 to 255 are multiplied by first: 1/255 for most PyTorch networks.
    pub scale: f64,
    /// What is then subtracted from each channel, in the network's order of channels.
    pub mean: [f64; 3],
    /// What each channel is then divided by.
    pub deviation: [f64; 3],
}

/// The size of a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputSize {
    /// This height and width for all pictures, whatever their aspect ratio.
    Fixed {
        /// In pixels.
        height: u32,
        /// In pixels.
        width: u32,
    },
    /// A size that keeps the picture's aspect ratio.
    Sides {
        /// The length of the shorter side, in pixels, unless that would make the longer side too long.
        short: u32,
        /// The maximum length of the longer side, in pixels.
        long: u32,
    },
}

/// The order of a picture's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ChannelOrder {
    /// Red first, as in image files and for almost all networks.
    #[default]
    #[serde(rename = "RGB")]
    Rgb,
    /// Blue first, as for networks that were trained in Caffe.
    #[serde(rename = "BGR")]
    Bgr,
}

/// The parts of a [`Preprocessing`] that are specified in flags, or in a TOML file beside a TorchScript file
/// (`model.toml` beside `model.pt`) with these keys:
///
/// ```toml
/// size = [224, 320]                # height and width that pictures are resized to; or, to keep their aspect ratio:
/// # short_side = 600               # that of the shorter side,
/// # long_side = 1000               # if the longer then is not longer than this
/// channel_order = "RGB"            # or "BGR"
/// scale = 0.00392156862745098      # what values of 0 to 255 are multiplied by
/// mean = [0.485, 0.456, 0.406]     # what is then taken off each channel
/// deviation = [0.229, 0.224, 0.225] # and what is then divided by
/// ```
///
/// The values shown are the defaults, which are those of torchvision's classifiers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessingOptions {
    /// Height and width, in pixels.
    pub size: Option<[u32; 2]>,
    /// The shorter side, in pixels.
    pub short_side: Option<u32>,
    /// The maximum length of the longer side, in pixels.
    pub long_side: Option<u32>,
    /// The order of the channels.
    pub channel_order: Option<ChannelOrder>,
    /// The factor that values of 0 to 255 are multiplied by.
    pub scale: Option<f64>,
    /// What is subtracted from each channel, in the network's order of channels.
    pub mean: Option<[f64; 3]>,
    /// What each channel is divided by.
    pub deviation: Option<[f64; 3]>,
}

impl PreprocessingOptions {
    /// Reads a TOML file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or has an unknown key or an invalid value: the message names the line.
    pub fn read(path: &Path) -> Result<PreprocessingOptions> {
        let text = read_text(path)?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Error::Backbone(format!("{}, line {line}: {}", path.display(), error.message()))
        })
    }

    /// Applies these options to `base`, which supplies everything that they leave out.
    ///
    /// # Errors
    ///
    /// When a value is impossible, such as a side of 0 pixels or a deviation of 0, or the options contradict each
    /// other.
    pub fn apply_to(&self, base: &Preprocessing) -> Result<Preprocessing> {
        let size = match (self.size, self.short_side, self.long_side) {
            (None, None, None) => base.size,
            (Some([height, width]), None, None) => InputSize::Fixed { height, width },
            (None, Some(short), long) => InputSize::Sides { short, long: long.unwrap_or(short.saturating_mul(2)) },
            _ => {
                let problem = "give either size or short_side; long_side goes with short_side";
                return Err(Error::Backbone(format!("preprocessing: {problem}")));
            }
        };
        let preprocessing = Preprocessing {
            size,
            channel_order: self.channel_order.unwrap_or(base.channel_order),
            scale: self.scale.unwrap_or(base.scale),
            mean: self.mean.unwrap_or(base.mean),
            deviation: self.deviation.unwrap_or(base.deviation),
        };
        preprocessing.check()?;
        Ok(preprocessing)
    }
}

impl Preprocessing {
    /// The preprocessing of torchvision's classifiers: values of 0 to 1, and ImageNet's mean and deviation.
    pub fn torchvision() -> Preprocessing {
        Preprocessing {
            size: InputSize::DEFAULT,
            channel_order: ChannelOrder::Rgb,
            scale: 1.0 / 255.0,
            mean: [0.485, 0.456, 0.406],
            deviation: [0.229, 0.224, 0.225],
        }
    }

    /// Checks that all values can be used.
    fn check(&self) -> Result<()> {
        /// A picture of this height and width takes 800 MB.
        const MAX_SIDE: u32 = 8192;
        let sides = match self.size {
            InputSize::Fixed { height, width } => [height, width],
            InputSize::Sides { short, long } => [short, long],
        };
        let problem = if sides.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            format!("a side of {} pixels, expected 1 to {MAX_SIDE}", sides.iter().max().unwrap_or(&0))
        } else if !(self.scale.is_finite() && self.scale > 0.0) {
            format!("scale = {}, expected a positive number", self.scale)
        } else if let Some(x) = self.deviation.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            format!("deviation = {x}, expected positive numbers")
        } else if let Some(x) = self.mean.iter().find(|x| !x.is_finite()) {
            format!("mean = {x}, expected finite numbers")
        } else {
            return Ok(());
        };
        Err(Error::Backbone(format!("preprocessing: {problem}")))
    }

    /// Standardises a batch of pictures for the network: from [B, H, W, 3] uint8, red first, to [B, 3, H, W] float32
    /// with the channels of a pixel adjacent in memory (channels_last), on the device of the pixels.
    pub fn standardise(&self, pixels: &Tensor) -> Tensor {
        let device = pixels.device();
        let per_channel = |values: [f64; 3]| Tensor::from_slice(&values.map(|x| x as f32)).to_device(device);
        let pixels = match self.channel_order {
            ChannelOrder::Rgb => pixels.shallow_clone(),
            ChannelOrder::Bgr => pixels.flip([3]),
        };
        // One multiplication and one addition, whose constants are computed in float64.
        let factor = self.deviation.map(|deviation| self.scale / deviation);
        let summand = [0, 1, 2].map(|channel| -self.mean[channel] / self.deviation[channel]);
        let standardised = (pixels.to_kind(Kind::Float) * per_channel(factor)).g_add_(&per_channel(summand));
        standardised.permute([0, 3, 1, 2])
    }
}

impl InputSize {
    /// 224 x 320: 7 x 10 cells for a network whose cells are 32 x 32 pixels, roughly the shape of a 4:3 picture.
    pub const DEFAULT: InputSize = InputSize::Fixed { height: 224, width: 320 };

    /// Returns the height and width that a picture of this height and width is resized to, in pixels.
    pub fn of(self, [height, width]: [u32; 2]) -> [u32; 2] {
        match self {
            InputSize::Fixed { height, width } => [height, width],
            InputSize::Sides { short, long } => {
                let (shorter, longer) = (f64::from(height.min(width).max(1)), f64::from(height.max(width).max(1)));
                let factor = (f64::from(short) / shorter).min(f64::from(long) / longer);
                [height, width].map(|side| ((f64::from(side) * factor).round() as u32).max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn pixels_are_standardised_as_torchvision_does_it() {
        let pixels = Tensor::from_slice(&[0u8, 128, 255, 10, 20, 30]).view([1, 1, 2, 3]);
        let mut preprocessing = Preprocessing::torchvision();
        // Expected values from torchvision.transforms.functional.normalize of to_tensor.
        let found = preprocessing.standardise(&pixels);
        assert_eq!((found.size(), found.device()), (vec![1, 3, 1, 2], Device::Cpu));
        let expected = Tensor::from_slice(&[-2.117_904f32, -1.946_657, 0.205_182, -1.685_574, 2.64, -1.281_568]);
        assert!((found.contiguous().view([-1]) - expected).abs().max().double_value(&[]) < 1e-5, "{found}");

        // As for networks that were trained in Caffe.
        preprocessing = Preprocessing {
            channel_order: ChannelOrder::Bgr,
            scale: 1.0,
            mean: [102.9801, 115.9465, 122.7717],
            deviation: [1.0; 3],
            ..preprocessing
        };
        let found = preprocessing.standardise(&pixels).contiguous().view([-1]);
        let expected = Tensor::from_slice(&[152.0199f32, -72.9801, 12.0535, -95.9465, -122.7717, -112.7717]);
        assert!((found - expected).abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn a_size_keeps_the_aspect_ratio_or_does_not() {
        let fixed = InputSize::Fixed { height: 224, width: 320 };
        assert_eq!(fixed.of([1, 5000]), [224, 320]);
        let sides = InputSize::Sides { short: 600, long: 1000 };
        assert_eq!(sides.of([480, 640]), [600, 800]);
        assert_eq!(sides.of([640, 480]), [800, 600]);
        assert_eq!(sides.of([300, 900]), [333, 1000]);
        assert_eq!(sides.of([1, 50_000]), [1, 1000]);
        assert_eq!(sides.of([1, 1]), [600, 600]);
    }

    #[test]
    fn options_are_read_by_key_and_bad_ones_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            PreprocessingOptions::read(&path)?.apply_to(&Preprocessing::torchvision())
        };
        assert_eq!(read("").unwrap(), Preprocessing::torchvision());
        let found =
            read("short_side = 600\nlong_side = 1000\nchannel_order = \"BGR\"\nscale = 1\ndeviation = [1, 1, 1]");
        let expected = Preprocessing {
            size: InputSize::Sides { short: 600, long: 1000 },
            channel_order: ChannelOrder::Bgr,
            scale: 1.0,
            deviation: [1.0; 3],
            ..Preprocessing::torchvision()
        };
        assert_eq!(found.unwrap(), expected);
        for (text, words) in [
            ("size = [2, 3]\nstd = 3", "model.toml, line 2: unknown field `std`"),
            ("size = [2]", "model.toml, line 1:"),
            ("size = [0, 3]", "1 to 8192"),
            ("size = [2, 3]\nshort_side = 3", "give either size or short_side"),
            ("deviation = [0.2, 0, 0.2]", "deviation = 0"),
            ("scale = nan", "scale = NaN"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
