//! Any network saved as TorchScript.

use std::path::Path;

use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use crate::backbone::backbone::{Backbone, BackboneInfo, BackboneKind, BackboneOutput};
use crate::backbone::detections::Detections;
use crate::backbone::failure::{check_finite, check_pictures, computing, failed, unknown_operator};
use crate::backbone::location::sha256;
use crate::backbone::preprocessing::{Preprocessing, PreprocessingOptions};
use crate::error::{Error, Result};
use crate::feed::options::Precision;
use crate::weights::format::Format;
use crate::weights::pth::is_torchscript;

/// A TorchScript module, from `torch.jit.script(module).save(FILE)` or `torch.jit.trace(module, example).save(FILE)`.
///
/// It takes pictures [B, 3, H, W] float32, and returns
///
/// - a map [B, C, h, w]; or
/// - if it is a detector, which is given one picture at a time, a tuple (boxes, features, scores) or a dictionary with
///   these keys (others are ignored): boxes [N, 4], x1 y1 x2 y2 in pixels of its input; features [N, D]; scores `[N]`,
///   or [N, S] for S classes without the background.
///
/// Either may be the only item of a list, a tuple or a dictionary. A module is a program, although one that can neither
/// open files nor run other programs: open only modules from people that you trust.
#[derive(Debug)]
pub struct TorchScript {
    module: CModule,
    info: BackboneInfo,
    device: Device,
}

impl TorchScript {
    /// Opens a file, and runs it once to see what it returns. The preprocessing comes from `options`, then from the
    /// TOML file beside it; a network that returns a map defaults to torchvision's.
    ///
    /// # Errors
    ///
    /// When the file is not TorchScript, or returns something invalid; when a detector's preprocessing is not
    /// specified; when memory is full.
    pub fn open(
        path: &Path,
        device: Device,
        options: &PreprocessingOptions,
        precision: Precision,
    ) -> Result<TorchScript> {
        check_format(path)?;
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string());
        let mut module = CModule::load_on_device(path, device).map_err(|error| cannot_load(path, &name, error))?;
        // This fails for a frozen module, which is in evaluation mode already.
        let _ = module.f_set_eval();
        if precision == Precision::Bf16 {
            module.to(device, precision.kind(), false);
        }
        let beside = path.with_extension("toml");
        let is_described = beside.exists() && beside != path;
        let torchvision = Preprocessing::torchvision();
        let described =
            if is_described { PreprocessingOptions::read(&beside)?.apply_to(&torchvision)? } else { torchvision };
        let mut network = TorchScript {
            module,
            info: BackboneInfo {
                name,
                weights: path.to_owned(),
                sha256: sha256(path)?,
                kind: BackboneKind::Map,
                channels: 0,
                precision,
                preprocessing: options.apply_to(&described)?,
            },
            device,
        };
        network.probe_output()?;
        if !is_described && *options == PreprocessingOptions::default() {
            let beside = beside.display();
            if network.info.kind == BackboneKind::Detector {
                let problem = format!(
                    "{}: a detector, but nothing says how its pictures must be prepared: write {beside} with size (or \
                     short_side and long_side), channel_order, scale, mean and deviation",
                    path.display()
                );
                return Err(Error::Backbone(problem));
            }
            tracing::warn!(
                "{}: pictures are resized to 224 x 320 and standardised as torchvision's classifiers expect, since \
                 there is no {beside} to say otherwise",
                path.display()
            );
        }
        Ok(network)
    }

    /// Runs the network on an empty picture to find out what it returns.
    fn probe_output(&mut self) -> Result<()> {
        let [height, width] = self.info.preprocessing.size.of([480, 640]);
        let picture = Tensor::zeros([1, 3, i64::from(height), i64::from(width)], (Kind::Float, self.device));
        let (kind, channels) = match self.run(&picture)? {
            BackboneOutput::Map(map) => (BackboneKind::Map, map.size()[1]),
            BackboneOutput::Detections(found) => (BackboneKind::Detector, found[0].features.size()[1]),
        };
        self.info.kind = kind;
        self.info.channels = channels as usize;
        Ok(())
    }

    /// Runs the module on these pictures, and checks what it returns.
    fn run(&self, pictures: &Tensor) -> Result<BackboneOutput> {
        let name = &self.info.name;
        let input = IValue::Tensor(computing(name, || pictures.f_to_kind(self.info.precision.kind()))?);
        self.info.precision.set_tf32(self.device);
        let returned = tch::no_grad(|| self.module.forward_is(&[input]));
        let returned = returned.map_err(|error| failed(name, &error.to_string()))?;
        let n_pictures = pictures.size()[0];
        match Returned::of(returned).map_err(|why| self.wrong(&why))? {
            Returned::Map(map) => {
                if map.size()[0] != n_pictures || map.size().contains(&0) {
                    return Err(self.wrong(&format!("a map of shape {:?} for {n_pictures} pictures", map.size())));
                }
                let map = computing(name, || map.f_to_kind(Kind::Float))?;
                check_finite(name, "its map", &map)?;
                Ok(BackboneOutput::Map(map))
            }
            Returned::Detections(detections) => {
                let Detections { boxes, features, scores } = &detections;
                for (what, tensor) in [("a box", boxes), ("a feature vector", features), ("a score", scores)] {
                    check_finite(name, what, tensor)?;
                }
                Ok(BackboneOutput::Detections(vec![detections]))
            }
        }
    }

    /// Returns the error for an invalid output.
    fn wrong(&self, what: &str) -> Error {
        Error::Backbone(format!(
            "{}: it returns {what}, not a map [B, C, h, w], or a detector's boxes [N, 4], features [N, D] and scores \
             [N]",
            self.info.weights.display()
        ))
    }
}

/// Returns the error for a file that cannot be loaded.
fn cannot_load(path: &Path, name: &str, error: TchError) -> Error {
    let message = error.to_string();
    if let Some(operator) = unknown_operator(&message) {
        return Error::Backbone(format!(
            "{name}: it needs the operator {operator}, which is not libtorch's own: name the library that has it in \
             LD_PRELOAD"
        ));
    }
    match failed(name, &message) {
        Error::Backbone(why) => {
            let problem = format!("not a complete TorchScript file of PyTorch 2.11 or older ({why}): save it again");
            Error::DamagedWeights { path: path.to_owned(), problem, source: Some(Box::new(error)) }
        }
        other => other,
    }
}

impl Backbone for TorchScript {
    fn info(&self) -> &BackboneInfo {
        &self.info
    }

    fn device(&self) -> Device {
        self.device
    }

    fn forward(&self, pictures: &Tensor) -> Result<BackboneOutput> {
        check_pictures(&self.info.name, pictures, self.device)?;
        let output = match self.info.kind {
            BackboneKind::Map => self.run(pictures)?,
            BackboneKind::Detector => {
                let mut all = Vec::new();
                for index in 0..pictures.size()[0] {
                    match self.run(&pictures.narrow(0, index, 1))? {
                        BackboneOutput::Detections(found) => all.extend(found),
                        map => return self.checked(map),
                    }
                }
                BackboneOutput::Detections(all)
            }
        };
        self.checked(output)
    }
}

impl TorchScript {
    /// Checks that an output is of the same kind as the first one.
    fn checked(&self, output: BackboneOutput) -> Result<BackboneOutput> {
        let channels = self.info.channels as i64;
        let is_alike = match (&output, self.info.kind) {
            (BackboneOutput::Map(map), BackboneKind::Map) => map.size()[1] == channels,
            (BackboneOutput::Detections(found), BackboneKind::Detector) => {
                found.iter().all(|found| found.features.size()[1] == channels)
            }
            _ => false,
        };
        if is_alike {
            return Ok(output);
        }
        let of_first = match self.info.kind {
            BackboneKind::Map => "map",
            BackboneKind::Detector => "boxes",
        };
        Err(self.wrong(&format!("something unlike the first picture's {of_first} with feature vectors of {channels}")))
    }
}

/// The output of a module.
enum Returned {
    /// [B, C, h, w].
    Map(Tensor),
    Detections(Detections),
}

impl Returned {
    /// Takes a map or detections out of the containers around them, or says what the value is instead.
    fn of(value: IValue) -> Result<Returned, String> {
        match value {
            IValue::Tensor(map) if map.dim() == 4 => Ok(Returned::Map(map)),
            IValue::Tensor(tensor) => Err(format!("a tensor of shape {:?}", tensor.size())),
            IValue::Tuple(mut values) | IValue::GenericList(mut values) => match values.len() {
                1 => Returned::of(values.remove(0)),
                // torchvision's detectors return losses, which are empty in evaluation mode, and then the detections.
                2 if matches!(&values[0], IValue::GenericDict(losses) if losses.is_empty()) => {
                    Returned::of(values.remove(1))
                }
                _ => Returned::of_tensors(values.into_iter().map(tensor).collect::<Option<_>>()),
            },
            IValue::TensorList(mut tensors) => match tensors.len() {
                1 => Returned::of(IValue::Tensor(tensors.remove(0))),
                _ => Returned::of_tensors(Some(tensors)),
            },
            IValue::GenericDict(mut items) => {
                if items.len() == 1 {
                    return Returned::of(items.remove(0).1);
                }
                let keys: Vec<String> = items
                    .iter()
                    .map(|(key, _)| if let IValue::String(key) = key { key.clone() } else { format!("{key:?}") })
                    .collect();
                let mut take = |name: &str| {
                    let index = items.iter().position(|(key, _)| *key == IValue::String(name.to_owned()));
                    index.and_then(|index| tensor(items.swap_remove(index).1))
                };
                match (take("boxes"), take("features"), take("scores")) {
                    (Some(boxes), Some(features), Some(scores)) => detections(boxes, features, scores),
                    _ => Err(format!("a dictionary of {}", keys.join(", "))),
                }
            }
            IValue::Object(_) => Err("an object".to_owned()),
            other => Err(format!("{other:?}")),
        }
    }

    fn of_tensors(tensors: Option<Vec<Tensor>>) -> Result<Returned, String> {
        match tensors.map(<[Tensor; 3]>::try_from) {
            Some(Ok([boxes, features, scores])) => detections(boxes, features, scores),
            Some(Err(tensors)) => Err(format!("{} tensors", tensors.len())),
            None => Err("a tuple or list of things other than tensors".to_owned()),
        }
    }
}

fn tensor(value: IValue) -> Option<Tensor> {
    if let IValue::Tensor(tensor) = value { Some(tensor) } else { None }
}

/// Returns the detections of one picture on the CPU, or says what is wrong with their shapes.
fn detections(boxes: Tensor, features: Tensor, scores: Tensor) -> Result<Returned, String> {
    let sizes = [&boxes, &features, &scores].map(Tensor::size);
    let is_right = match (&sizes[0][..], &sizes[1][..], &sizes[2][..]) {
        (&[n, 4], &[of_features, d], &[of_scores] | &[of_scores, _]) => n == of_features && n == of_scores && d > 0,
        _ => false,
    };
    if !is_right {
        let [boxes, features, scores] = sizes;
        return Err(format!("boxes {boxes:?}, features {features:?} and scores {scores:?}"));
    }
    let on_cpu = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let scores = if scores.dim() == 1 { scores.unsqueeze(1) } else { scores };
    Ok(Returned::Detections(Detections { boxes: on_cpu(boxes), features: on_cpu(features), scores: on_cpu(scores) }))
}

/// Checks that a file is TorchScript; the error says what it is instead.
fn check_format(path: &Path) -> Result<()> {
    const REMEDY: &str = "save the module with torch.jit.script(module).save(FILE) or torch.jit.trace(module, \
        example).save(FILE)";
    let what = match Format::of(path)? {
        Format::Safetensors => "a safetensors file",
        Format::PyTorch if is_torchscript(path)? => return Ok(()),
        Format::PyTorch => "weights alone",
    };
    Err(Error::weights_mismatch(path, format!("{what}, not a TorchScript module: {REMEDY}")))
}
