//! The structure that the built-in networks share: a sequence of convolutions with batch norm, some of them in residual
//! blocks, and a classifier over the mean of the last map.

use crate::backbone::preprocessing::Preprocessing;

/// A network, described by its layers.
pub(super) struct Architecture {
    pub(super) blocks: Vec<Block>,
    pub(super) padding: Padding,
    /// The constant that batch norm adds to a variance.
    pub(super) norm_eps: f64,
    /// The name of the classifier, a linear layer from the last map's channels to ImageNet's classes.
    pub(super) classifier: &'static str,
    pub(super) preprocessing: Preprocessing,
}

/// A sequence of convolutions.
pub(super) struct Block {
    pub(super) layers: Vec<Layer>,
    /// Whether the input is added to the output.
    pub(super) is_residual: bool,
}

/// A convolution without a bias, and the batch norm after it.
pub(super) struct Layer {
    /// Its name in the state dict.
    pub(super) conv: String,
    /// The batch norm's name in the state dict.
    pub(super) norm: String,
    pub(super) in_channels: i64,
    pub(super) out_channels: i64,
    /// Height, and width, of the kernel.
    pub(super) kernel: i64,
    pub(super) stride: i64,
    /// 1, or the number of channels.
    pub(super) groups: i64,
    /// Whether ReLU6 follows the batch norm.
    pub(super) has_relu6: bool,
}

/// How a convolution pads its input with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// Half of the kernel on each side, as in PyTorch's own networks.
    Half,
    /// TensorFlow's "same": as many zeros as it takes for ceil(length / stride) positions, with an odd one at the
    /// bottom or on the right. So it depends on the size of the map.
    Same,
}

/// An inverted residual block: a 1 x 1 convolution increases the number of channels, a depthwise convolution follows,
/// and another 1 x 1 convolution, without ReLU6, reduces it again. Sandler et al. 2018, "MobileNetV2".
pub(super) struct InvertedResidual {
    pub(super) in_channels: i64,
    pub(super) out_channels: i64,
    /// The factor by which the first convolution increases the channels; at 1 that convolution is left out.
    pub(super) expansion: i64,
    pub(super) kernel: i64,
    pub(super) stride: i64,
}

impl Layer {
    /// A convolution over all channels, with ReLU6.
    pub(super) fn full(
        [conv, norm]: [String; 2],
        [in_channels, out_channels]: [i64; 2],
        kernel: i64,
        stride: i64,
    ) -> Layer {
        Layer { conv, norm, in_channels, out_channels, kernel, stride, groups: 1, has_relu6: true }
    }
}

impl Block {
    /// A block of one layer.
    pub(super) fn plain(layer: Layer) -> Block {
        Block { layers: vec![layer], is_residual: false }
    }
}

impl InvertedResidual {
    /// Returns its layers with these names: those of the expanding, the depthwise and the projecting convolution, each
    /// with that of its batch norm.
    pub(super) fn block(&self, [expand, depthwise, project]: [[String; 2]; 3]) -> Block {
        let inside = self.in_channels * self.expansion;
        let mut layers = Vec::new();
        if self.expansion != 1 {
            layers.push(Layer::full(expand, [self.in_channels, inside], 1, 1));
        }
        layers.push(Layer { groups: inside, ..Layer::full(depthwise, [inside, inside], self.kernel, self.stride) });
        layers.push(Layer { has_relu6: false, ..Layer::full(project, [inside, self.out_channels], 1, 1) });
        Block { layers, is_residual: self.stride == 1 && self.in_channels == self.out_channels }
    }
}

impl Padding {
    /// Returns the number of zeros before and after a row or column of this length.
    pub(super) fn around(self, length: i64, kernel: i64, stride: i64) -> [i64; 2] {
        match self {
            Padding::Half => [kernel / 2; 2],
            Padding::Same => {
                let n_positions = (length + stride - 1) / stride;
                let n_zeros = ((n_positions - 1) * stride + kernel - length).max(0);
                [n_zeros / 2, n_zeros - n_zeros / 2]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From TensorFlow's documentation of its "SAME" padding.
    #[test]
    fn same_padding_depends_on_the_length() {
        for (length, kernel, stride, expected) in [
            (224, 3, 2, [0, 1]),
            (225, 3, 2, [1, 1]),
            (112, 5, 2, [1, 2]),
            (113, 5, 2, [2, 2]),
            (14, 3, 1, [1, 1]),
            (14, 1, 1, [0, 0]),
            (13, 1, 2, [0, 0]),
            (1, 5, 2, [2, 2]),
        ] {
            assert_eq!(Padding::Same.around(length, kernel, stride), expected, "{length} {kernel} {stride}");
        }
        assert_eq!(Padding::Half.around(224, 3, 2), [1, 1]);
    }
}
