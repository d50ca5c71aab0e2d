//! EfficientNet-Lite, with the layers and parameter names of the package `efficientnet_lite_pytorch`.

use crate::backbone::architecture::{Architecture, Block, InvertedResidual, Layer, Padding};
use crate::backbone::preprocessing::{ChannelOrder, InputSize, Preprocessing};

/// The stages of lite0: kernel, stride of the first block, expansion, channels and number of blocks. Tan and Le 2019,
/// "EfficientNet", table 1, without squeeze-and-excitation.
const STAGES: [[i64; 5]; 7] = [
    [3, 1, 1, 16, 1],
    [3, 2, 6, 24, 2],
    [5, 2, 6, 40, 2],
    [3, 2, 6, 80, 3],
    [5, 1, 6, 112, 3],
    [5, 2, 6, 192, 4],
    [3, 1, 6, 320, 1],
];

/// A size of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lite {
    Lite0,
    Lite1,
    Lite2,
}

impl Lite {
    /// Returns the factors by which it is wider and deeper than lite0.
    fn scaling(self) -> [f64; 2] {
        match self {
            Lite::Lite0 => [1.0, 1.0],
            Lite::Lite1 => [1.0, 1.1],
            Lite::Lite2 => [1.1, 1.2],
        }
    }

    /// Returns the network. Its last map has 1,280 channels and 1/32 of the picture's height and width, rounded up.
    pub(super) fn architecture(self) -> Architecture {
        let [width, depth] = self.scaling();
        let names = |conv: &str, norm: &str| [conv.to_owned(), norm.to_owned()];
        let mut in_channels = 32;
        let mut blocks = vec![Block::plain(Layer::full(names("_conv_stem", "_bn0"), [3, in_channels], 3, 2))];
        for (stage, [kernel, stride, expansion, out_channels, repetitions]) in STAGES.into_iter().enumerate() {
            let out_channels = scale_channels(out_channels, width);
            // Lite networks do not deepen the first and the last stage.
            let is_scaled = stage != 0 && stage != STAGES.len() - 1;
            let repetitions = if is_scaled { (repetitions as f64 * depth).ceil() as i64 } else { repetitions };
            for repetition in 0..repetitions {
                let block = InvertedResidual {
                    in_channels,
                    out_channels,
                    expansion,
                    kernel,
                    stride: if repetition == 0 { stride } else { 1 },
                };
                let index = blocks.len() - 1;
                let names = |conv: &str, norm: &str| [conv, norm].map(|part| format!("_blocks.{index}.{part}"));
                blocks.push(block.block([
                    names("_expand_conv", "_bn0"),
                    names("_depthwise_conv", "_bn1"),
                    names("_project_conv", "_bn2"),
                ]));
                in_channels = out_channels;
            }
        }
        blocks.push(Block::plain(Layer::full(names("_conv_head", "_bn1"), [in_channels, 1280], 1, 1)));
        Architecture {
            blocks,
            padding: Padding::Same,
            norm_eps: 1e-3,
            classifier: "_fc",
            preprocessing: Preprocessing {
                size: InputSize::DEFAULT,
                channel_order: ChannelOrder::Rgb,
                scale: 1.0,
                mean: [127.0; 3],
                deviation: [128.0; 3],
            },
        }
    }
}

/// Scales a number of channels by `width` and rounds it to the nearest multiple of 8, or to the next one up if rounding
/// would take off more than a tenth.
fn scale_channels(n_channels: i64, width: f64) -> i64 {
    const DIVISOR: i64 = 8;
    let wanted = n_channels as f64 * width;
    let rounded = ((wanted as i64 + DIVISOR / 2) / DIVISOR * DIVISOR).max(DIVISOR);
    if (rounded as f64) < 0.9 * wanted { rounded + DIVISOR } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from `efficientnet_lite_pytorch.EfficientNet.from_name`: the number of blocks, and the channels
    /// after each stage.
    #[test]
    fn the_networks_are_as_deep_and_wide_as_in_the_package() {
        for (lite, n_blocks, channels) in [
            (Lite::Lite0, 16, [16, 24, 40, 80, 112, 192, 320]),
            (Lite::Lite1, 21, [16, 24, 40, 80, 112, 192, 320]),
            (Lite::Lite2, 21, [16, 24, 48, 88, 120, 208, 352]),
        ] {
            let blocks = lite.architecture().blocks;
            assert_eq!(blocks.len(), n_blocks + 2, "{lite:?}");
            let mut found: Vec<i64> =
                blocks[1..=n_blocks].iter().map(|block| block.layers.last().unwrap().out_channels).collect();
            found.dedup();
            assert_eq!(found, channels, "{lite:?}");
        }
    }
}
