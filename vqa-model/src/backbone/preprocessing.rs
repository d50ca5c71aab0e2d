//! How a picture becomes the input of a network.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How a picture becomes the input of a network: resized, its channels in an order, and then
/// (value x scale - mean) / deviation, where a value is 0 to 255.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// The size that pictures are resized to, unless somebody wants another.
    pub size: InputSize,
    /// The order of the channels.
    pub channel_order: ChannelOrder,
    /// What values of 0 to 255 are multiplied by first: 1/255 for most networks of PyTorch.
    pub scale: f64,
    /// What is then taken off each channel, in the network's order of channels.
    pub mean: [f64; 3],
    /// What is then divided by.
    pub deviation: [f64; 3],
}

/// The size that a network wants its pictures in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputSize {
    /// This height and width for all pictures, whatever their aspect ratio.
    Fixed {
        /// In pixels.
        height: u32,
        /// In pixels.
        width: u32,
    },
    /// The picture's own aspect ratio.
    Sides {
        /// The shorter side, in pixels, if the longer then is not too long.
        short: u32,
        /// The most that the longer side may have.
        long: u32,
    },
}

/// The order of a picture's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ChannelOrder {
    /// Red first, as in files, and for almost all networks.
    #[default]
    #[serde(rename = "RGB")]
    Rgb,
    /// Blue first, as networks that were trained in Caffe want it.
    #[serde(rename = "BGR")]
    Bgr,
}

impl Preprocessing {
    /// A batch of pictures as the network wants them: from [B, H, W, 3] uint8, red first, to [B, 3, H, W] float32,
    /// with the channels of a pixel beside each other in memory (channels_last). On the device of the pixels.
    pub fn standardise(&self, pixels: &Tensor) -> Tensor {
        let device = pixels.device();
        let per_channel = |values: [f64; 3]| Tensor::from_slice(&values.map(|x| x as f32)).to_device(device);
        let pixels = match self.channel_order {
            ChannelOrder::Rgb => pixels.shallow_clone(),
            ChannelOrder::Bgr => pixels.flip([3]),
        };
        // In one multiplication and one addition, as float64 has the constants.
        let factor = self.deviation.map(|deviation| self.scale / deviation);
        let summand = [0, 1, 2].map(|channel| -self.mean[channel] / self.deviation[channel]);
        let standardised = (pixels.to_kind(Kind::Float) * per_channel(factor)).g_add_(&per_channel(summand));
        standardised.permute([0, 3, 1, 2])
    }
}

impl InputSize {
    /// The height and width, in pixels, that a picture of this height and width is resized to.
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
        let mut preprocessing = Preprocessing {
            size: InputSize::Fixed { height: 1, width: 2 },
            channel_order: ChannelOrder::Rgb,
            scale: 1.0 / 255.0,
            mean: [0.485, 0.456, 0.406],
            deviation: [0.229, 0.224, 0.225],
        };
        // torchvision.transforms.functional.normalize of to_tensor.
        let found = preprocessing.standardise(&pixels);
        assert_eq!((found.size(), found.device()), (vec![1, 3, 1, 2], Device::Cpu));
        let expected = Tensor::from_slice(&[-2.117_904f32, -1.946_657, 0.205_182, -1.685_574, 2.64, -1.281_568]);
        assert!((found.contiguous().view([-1]) - expected).abs().max().double_value(&[]) < 1e-5, "{found}");

        // As Caffe's networks want it.
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
}
