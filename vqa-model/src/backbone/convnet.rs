//! Computes the built-in networks, with batch norm folded into the convolutions before it.

use std::collections::HashMap;
use std::path::Path;

use tch::nn::{Init, VarStore};
use tch::{Device, Kind, TchError, Tensor};

use crate::backbone::architecture::{Architecture, Layer, Padding};
use crate::backbone::backbone::{Backbone, BackboneInfo, BackboneKind, BackboneOutput};
use crate::backbone::failure::{check_finite, check_pictures, computing};
use crate::backbone::preprocessing::Preprocessing;
use crate::error::Result;
use crate::feed::options::Precision;
use crate::weights::load::{Loaded, load};

/// A network trained on ImageNet: computes a map of features, and classifies entire pictures.
#[derive(Debug)]
pub struct ConvNet {
    info: BackboneInfo,
    device: Device,
    kind: Kind,
    padding: Padding,
    blocks: Vec<FoldedBlock>,
    /// [n_classes, C] and [n_classes], float32.
    classifier: [Tensor; 2],
}

/// How many pictures of a batch a CPU computes at a time: enough to keep all threads busy, but no more, since then
/// their maps do not fit in its caches. With one thread, eight at a time took a third longer than one after the other.
fn pictures_at_once() -> i64 {
    i64::from(tch::get_num_threads() / 2).max(1)
}

#[derive(Debug)]
struct FoldedBlock {
    layers: Vec<FoldedLayer>,
    is_residual: bool,
}

/// A convolution with the following batch norm folded into it.
#[derive(Debug)]
struct FoldedLayer {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    groups: i64,
    has_relu6: bool,
    /// Whether it is computed as a matrix product, which is a tenth faster on a CPU for a 1 x 1 kernel.
    is_linear: bool,
}

impl ConvNet {
    /// Loads a network from a file with PyTorch's parameter names.
    pub(super) fn load(
        name: &str,
        architecture: &Architecture,
        weights: &Path,
        sha256: String,
        device: Device,
        precision: Precision,
    ) -> Result<ConvNet> {
        let vs = VarStore::new(Device::Cpu);
        let channels = declare(&vs, architecture);
        let remedy = format!("name the weights of {name}, as `make setup` installs them");
        let Loaded { adapted } = load(&vs, weights, &remedy)?;
        if let Some(adapted) = adapted {
            tracing::debug!("{}: {adapted}", weights.display());
        }
        let kind = precision.kind();
        let variables = vs.variables();
        let place = |tensor: Tensor, kind| computing(name, || tensor.f_to_device(device)?.f_to_kind(kind));
        let mut blocks = Vec::new();
        for block in &architecture.blocks {
            let mut layers = Vec::new();
            for layer in &block.layers {
                let [weight, bias] = fold(layer, &variables, architecture.norm_eps);
                // Twice as fast as channels-first, both on a CPU and for bfloat16 on a GPU's tensor cores.
                let weight = channels_last(&place(weight, kind)?);
                let bias = place(bias, kind)?;
                let &Layer { stride, groups, has_relu6, kernel, .. } = layer;
                let is_linear = device == Device::Cpu && kernel == 1 && stride == 1 && groups == 1;
                layers.push(FoldedLayer { weight, bias, stride, groups, has_relu6, is_linear });
            }
            blocks.push(FoldedBlock { layers, is_residual: block.is_residual });
        }
        let of_classifier =
            |part: &str| place(variables[&format!("{}.{part}", architecture.classifier)].detach(), Kind::Float);
        let classifier = [of_classifier("weight")?, of_classifier("bias")?];
        let info = BackboneInfo {
            name: name.to_owned(),
            weights: weights.to_owned(),
            sha256,
            kind: BackboneKind::Map,
            channels: channels as usize,
            precision,
            preprocessing: architecture.preprocessing.clone(),
        };
        Ok(ConvNet { info, device, kind, padding: architecture.padding, blocks, classifier })
    }

    /// Returns the logits of ImageNet's 1,000 classes, [B, 1000] float32, for a batch of pictures as
    /// [`forward`](Backbone::forward) takes them.
    ///
    /// # Errors
    ///
    /// Those of [`forward`](Backbone::forward).
    pub fn class_logits(&self, pictures: &Tensor) -> Result<Tensor> {
        let map = self.map(pictures)?;
        let [weight, bias] = &self.classifier;
        let name = &self.info.name;
        computing(name, || map.f_mean_dim(&[2i64, 3][..], false, Kind::Float)?.f_linear(weight, Some(bias)))
    }

    /// Replaces the preprocessing in its info.
    pub(super) fn set_preprocessing(&mut self, preprocessing: Preprocessing) {
        self.info.preprocessing = preprocessing;
    }

    /// Computes the last map, [B, C, h, w] float32.
    fn map(&self, pictures: &Tensor) -> Result<Tensor> {
        let name = &self.info.name;
        check_pictures(name, pictures, self.device)?;
        self.info.precision.set_tf32(self.device);
        let map = tch::no_grad(|| {
            computing(name, || {
                let forward = |pictures: &Tensor| {
                    let mut map = channels_last(&pictures.f_to_kind(self.kind)?);
                    for block in &self.blocks {
                        map = block.forward(&map, self.padding)?;
                    }
                    map.f_to_kind(Kind::Float)
                };
                if self.device != Device::Cpu {
                    return forward(pictures);
                }
                let maps = pictures.f_split(pictures_at_once(), 0)?;
                let maps: Vec<Tensor> = maps.iter().map(forward).collect::<Result<_, TchError>>()?;
                Tensor::f_cat(&maps, 0)
            })
        })?;
        check_finite(name, "its map", &map)?;
        Ok(map)
    }
}

impl Backbone for ConvNet {
    fn info(&self) -> &BackboneInfo {
        &self.info
    }

    fn device(&self) -> Device {
        self.device
    }

    fn forward(&self, pictures: &Tensor) -> Result<BackboneOutput> {
        Ok(BackboneOutput::Map(self.map(pictures)?))
    }
}

impl FoldedBlock {
    /// From [B, in_channels, h, w] to [B, out_channels, h / stride, w / stride].
    fn forward(&self, input: &Tensor, padding: Padding) -> Result<Tensor, TchError> {
        let mut map = input.shallow_clone();
        for layer in &self.layers {
            map = layer.forward(&map, padding)?;
        }
        if self.is_residual { map.f_add_(input) } else { Ok(map) }
    }
}

impl FoldedLayer {
    fn forward(&self, input: &Tensor, padding: Padding) -> Result<Tensor, TchError> {
        if self.is_linear {
            // The channels of a pixel are adjacent in memory, so the input already is the matrix.
            let weight = self.weight.f_flatten(1, -1)?;
            let map = input.permute([0, 2, 3, 1]).f_linear(&weight, Some(&self.bias))?.permute([0, 3, 1, 2]);
            return self.activate(map);
        }
        let (height, width) = (input.size()[2], input.size()[3]);
        let kernel = self.weight.size()[2];
        let [top, bottom] = padding.around(height, kernel, self.stride);
        let [left, right] = padding.around(width, kernel, self.stride);
        let convolve = |input: &Tensor, padding: [i64; 2]| {
            input.f_conv2d(&self.weight, Some(&self.bias), [self.stride; 2], padding, [1, 1], self.groups)
        };
        let map = if top == bottom && left == right {
            convolve(input, [top, left])?
        } else {
            convolve(&input.f_constant_pad_nd([left, right, top, bottom])?, [0, 0])?
        };
        self.activate(map)
    }

    fn activate(&self, mut map: Tensor) -> Result<Tensor, TchError> {
        if self.has_relu6 { map.f_clamp_(0.0, 6.0) } else { Ok(map) }
    }
}

/// Creates the parameters of a network, to be loaded later, and returns the number of channels of its last map.
fn declare(vs: &VarStore, architecture: &Architecture) -> i64 {
    let declare = |name: String, shape: &[i64]| {
        // In tch the parts of a dotted name are a path.
        let (path, name) = match name.rsplit_once('.') {
            Some((path, name)) => (path.split('.').fold(vs.root(), |root, part| root / part), name.to_owned()),
            None => (vs.root(), name),
        };
        let _ = path.var(&name, shape, Init::Const(0.0));
    };
    let mut channels = 0;
    for layer in architecture.blocks.iter().flat_map(|block| &block.layers) {
        let &Layer { in_channels, out_channels, kernel, groups, .. } = layer;
        declare(format!("{}.weight", layer.conv), &[out_channels, in_channels / groups, kernel, kernel]);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            declare(format!("{}.{part}", layer.norm), &[out_channels]);
        }
        channels = out_channels;
    }
    /// The number of ImageNet's classes.
    const N_CLASSES: i64 = 1000;
    declare(format!("{}.weight", architecture.classifier), &[N_CLASSES, channels]);
    declare(format!("{}.bias", architecture.classifier), &[N_CLASSES]);
    channels
}

/// Returns the weight and bias, in float64, of a convolution equivalent to this one followed by its batch norm.
fn fold(layer: &Layer, variables: &HashMap<String, Tensor>, norm_eps: f64) -> [Tensor; 2] {
    let get = |name: &str, part: &str| variables[&format!("{name}.{part}")].detach().to_kind(Kind::Double);
    let norm = |part| get(&layer.norm, part);
    let factor = norm("weight") / (norm("running_var") + norm_eps).sqrt(); // [out_channels]
    let weight = get(&layer.conv, "weight") * factor.view([-1, 1, 1, 1]);
    let bias = norm("bias") - norm("running_mean") * factor;
    [weight, bias]
}

/// Returns the same values with the channels of each pixel adjacent in memory.
fn channels_last(tensor: &Tensor) -> Tensor {
    tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folded_convolution_is_the_convolution_and_its_batch_norm() {
        tch::manual_seed(4);
        let options = (Kind::Float, Device::Cpu);
        let layer = Layer { groups: 6, ..Layer::full(["conv".to_owned(), "norm".to_owned()], [6, 6], 3, 2) };
        let variables = HashMap::from([
            ("conv.weight".to_owned(), Tensor::randn([6, 1, 3, 3], options)),
            ("norm.weight".to_owned(), Tensor::rand([6], options) + 0.5),
            ("norm.bias".to_owned(), Tensor::randn([6], options)),
            ("norm.running_mean".to_owned(), Tensor::randn([6], options)),
            ("norm.running_var".to_owned(), Tensor::rand([6], options) + 0.01),
        ]);
        let [weight, bias] = fold(&layer, &variables, 1e-3).map(|tensor| tensor.to_kind(Kind::Float));
        let input = Tensor::randn([2, 6, 9, 14], options);
        let folded = FoldedLayer {
            weight: channels_last(&weight),
            bias,
            stride: 2,
            groups: 6,
            has_relu6: true,
            is_linear: false,
        };
        let norm = |part: &str| Some(&variables[&format!("norm.{part}")]);
        for (padding, zeros) in [(Padding::Half, [1, 1, 1, 1]), (Padding::Same, [0, 1, 1, 1])] {
            let found = folded.forward(&channels_last(&input), padding).unwrap();
            let expected = input
                .constant_pad_nd(zeros)
                .conv2d(&variables["conv.weight"], None::<&Tensor>, [2, 2], [0, 0], [1, 1], 6)
                .batch_norm(
                    norm("weight"),
                    norm("bias"),
                    norm("running_mean"),
                    norm("running_var"),
                    false,
                    0.1,
                    1e-3,
                    false,
                )
                .clamp(0.0, 6.0);
            assert_eq!(found.size(), expected.size(), "{padding:?}");
            let off = (&found - &expected).abs().max().double_value(&[]);
            assert!(off < 1e-5, "{padding:?}: {off}");
            assert!(found.max().double_value(&[]) <= 6.0 && found.min().double_value(&[]) >= 0.0);
        }
    }
}
