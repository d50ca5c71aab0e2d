//! MobileNetV2, with the layers and parameter names of torchvision's `mobilenet_v2`.

use crate::backbone::architecture::{Architecture, Block, InvertedResidual, Layer, Padding};
use crate::backbone::preprocessing::Preprocessing;

/// The stages: expansion, channels, number of blocks, stride of the first block. Sandler et al. 2018, table 2.
const STAGES: [[i64; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];

/// Returns the network. Its last map has 1,280 channels and 1/32 of the picture's height and width, rounded up.
pub(super) fn architecture() -> Architecture {
    let mut in_channels = 32;
    let mut blocks =
        vec![Block::plain(Layer::full(["features.0.0", "features.0.1"].map(str::to_owned), [3, in_channels], 3, 2))];
    for [expansion, out_channels, repetitions, stride] in STAGES {
        for repetition in 0..repetitions {
            let block = InvertedResidual {
                in_channels,
                out_channels,
                expansion,
                kernel: 3,
                stride: if repetition == 0 { stride } else { 1 },
            };
            let index = blocks.len();
            // In torchvision, a convolution with ReLU6 is in one module with its batch norm; the last convolution,
            // which has no ReLU6, is in the block itself, and so is its batch norm.
            let name = |part: &str| format!("features.{index}.conv.{part}");
            let [expand, depthwise, project] = match expansion {
                1 => [["", ""], ["0.0", "0.1"], ["1", "2"]],
                _ => [["0.0", "0.1"], ["1.0", "1.1"], ["2", "3"]],
            }
            .map(|names| names.map(name));
            blocks.push(block.block([expand, depthwise, project]));
            in_channels = out_channels;
        }
    }
    blocks.push(Block::plain(Layer::full(
        ["features.18.0", "features.18.1"].map(str::to_owned),
        [in_channels, 1280],
        1,
        1,
    )));
    Architecture {
        blocks,
        padding: Padding::Half,
        norm_eps: 1e-5,
        classifier: "classifier.1",
        preprocessing: Preprocessing::torchvision(),
    }
}
