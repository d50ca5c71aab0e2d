//! Compares the backbones with `backbones.py`, which computes them layer by layer, using the weights of `make setup` if
//! they are installed and random ones otherwise; and tests TorchScript modules.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use vqa_model::backbone::{
    Backbone, BackboneKind, BackboneOutput, Detections, NAMES, OpenOptions, PreprocessingOptions, find_weights, open,
    open_built_in, open_with,
};
use vqa_model::feed::Precision;
use vqa_model::weights::read_tensors;

/// The same sizes as in `backbones.py`: one with even sides, one with odd.
const SIZES: [&str; 2] = ["64x96", "47x75"];

#[test]
fn backbones_give_the_maps_and_classes_of_pytorch() {
    tch::set_num_threads(1);
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let installed = NAMES.map(|name| find_weights(name).ok());
    let cases: Vec<_> = NAMES
        .iter()
        .zip(&installed)
        .map(|(name, weights)| serde_json::json!({ "name": name, "weights": weights }))
        .collect();
    std::fs::write(directory.join("spec.json"), serde_json::json!(cases).to_string()).unwrap();
    if !vqa_pytorch_reference::run("backbones.py", &[directory]) {
        return;
    }
    for (name, installed) in NAMES.into_iter().zip(installed) {
        networks_agree(directory, name, &installed.unwrap_or_else(|| directory.join(format!("{name}.pth"))));
    }
    weights_of_another_network_are_named(directory);
    torchscript_maps_agree(directory);
    torchscript_detectors_agree(directory);
    other_files_are_refused(directory);
}

/// Maps agree within 1e-4 of their largest value, and so do logits. In bfloat16, whose precision is 8 bits, the errors
/// of fifty layers add up to a tenth of it.
fn networks_agree(directory: &Path, name: &str, weights: &Path) {
    let mut options = OpenOptions { weights: Some(weights.to_owned()), ..OpenOptions::new(Device::Cpu) };
    let network = open_built_in(name, &options).unwrap();
    let info = network.info();
    assert_eq!((info.name.as_str(), info.kind, info.channels), (name, BackboneKind::Map, 1280));
    assert_eq!(info.sha256.len(), 64);
    for size in SIZES {
        let expected = read(&directory.join(format!("{name}_{size}.safetensors")));
        let case = format!("{name} {size}");
        let map = map(&network, &expected["pictures"]);
        assert_close(&case, &map, &expected["map"], 1e-4);
        assert_close(&case, &network.class_logits(&expected["pictures"]).unwrap(), &expected["logits"], 1e-4);
        // A picture's features do not depend on the rest of the batch.
        let alone = self::map(&network, &expected["pictures"].narrow(0, 1, 1));
        assert_close(&case, &alone, &expected["map"].narrow(0, 1, 1), 1e-4);
    }
    if name == "efficientnet-lite0" {
        options.precision = Precision::Bf16;
        let network = open_with(name, &options).unwrap();
        let expected = read(&directory.join(format!("{name}_{}.safetensors", SIZES[0])));
        assert_close("bfloat16", &map(&*network, &expected["pictures"]), &expected["map"], 0.2);
    }
}

fn weights_of_another_network_are_named(directory: &Path) {
    let weights = directory.join("weights.pt");
    let error = open("mobilenet-v2", Some(&weights), Device::Cpu).err().unwrap().to_string();
    for words in ["weights.pt: weights of another model", "classifier.1.bias is missing", "conv.bias is not in this"] {
        assert!(error.contains(words), "{error}");
    }
    let error = open("mobilenet", None, Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("there is no backbone \"mobilenet\"") && error.contains("efficientnet-lite0"), "{error}");
}

fn torchscript_maps_agree(directory: &Path) {
    let expected = read(&directory.join("map.safetensors"));
    for name in ["traced.pt", "frozen.pt", "dict.pt"] {
        let network = open(directory.join(name).to_str().unwrap(), None, Device::Cpu).unwrap();
        let info = network.info();
        assert_eq!((info.name.as_str(), info.kind, info.channels), (name, BackboneKind::Map, 5));
        assert_close(name, &map(&*network, &expected["pictures"]), &expected["map"], 1e-5);
    }
}

fn torchscript_detectors_agree(directory: &Path) {
    for name in ["tuples", "dicts"] {
        let path = directory.join(format!("{name}.pt"));
        let path = path.to_str().unwrap();
        let error = open(path, None, Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(&format!("{name}.pt: a detector")) && error.contains("short_side"), "{error}");

        std::fs::write(directory.join(format!("{name}.toml")), "short_side = 60\nlong_side = 100\nscale = 1").unwrap();
        let network = open(path, None, Device::Cpu).unwrap();
        assert_eq!((network.info().kind, network.info().channels), (BackboneKind::Detector, 3));
        assert_eq!(network.info().preprocessing.size.of([480, 640]), [60, 80]);
        // A flag overrides the file.
        let preprocessing = PreprocessingOptions { size: Some([50, 70]), ..PreprocessingOptions::default() };
        let flags = OpenOptions { preprocessing, ..OpenOptions::new(Device::Cpu) };
        assert_eq!(open_with(path, &flags).unwrap().info().preprocessing.size.of([480, 640]), [50, 70]);

        let pictures = Tensor::randn([2, 3, 20, 30], (Kind::Float, Device::Cpu));
        let BackboneOutput::Detections(found) = network.forward(&pictures).unwrap() else { panic!("a detector") };
        assert_eq!(found.len(), 2);
        for (index, Detections { boxes, features, scores }) in found.iter().enumerate() {
            let picture = pictures.get(index as i64);
            assert_eq!(*boxes, Tensor::from_slice2(&[[0.0f32, 0.0, 30.0, 20.0], [0.0, 0.0, 15.0, 10.0]]));
            assert_eq!(*scores, Tensor::from_slice2(&[[0.25f32], [0.75]]));
            assert_eq!(features.get(1), picture.select(2, 0).select(1, 0));
            assert_close(name, &features.get(0), &picture.mean_dim([1i64, 2].as_slice(), false, Kind::Float), 1e-5);
        }
    }
}

fn other_files_are_refused(directory: &Path) {
    std::fs::write(directory.join("misshapen.toml"), "").unwrap();
    std::fs::write(directory.join("page.pt"), "<html>").unwrap();
    for (name, words) in [
        ("pooled.pt", "pooled.pt: it returns a tensor of shape [1, 5], not a map [B, C, h, w]"),
        ("nan.pt", "nan.pt: its map has NaN"),
        ("fails.pt", "fails.pt: RuntimeError: shape '[7]' is invalid"),
        ("misshapen.pt", "it returns boxes [2, 4], features [3, 8] and scores [2]"),
        ("weights.pt", "weights.pt: weights alone, not a TorchScript module: save the module with torch.jit"),
        ("safetensors.pt", "safetensors.pt: a safetensors file, not a TorchScript"),
        ("cut.pt", "cut.pt: "),
        ("page.pt", "page.pt: a web page"),
        ("nowhere.pt", "nowhere.pt: no such file"),
    ] {
        let error = open(directory.join(name).to_str().unwrap(), None, Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(words) && error.lines().count() == 1, "{name}: {error}");
    }
    let error = open(directory.join("traced.pt").to_str().unwrap(), Some(Path::new("x.pth")), Device::Cpu);
    assert!(error.err().unwrap().to_string().contains("--weights is for"));
}

fn read(path: &Path) -> HashMap<String, Tensor> {
    read_tensors(path).unwrap().into_iter().collect()
}

fn map(network: &dyn Backbone, pictures: &Tensor) -> Tensor {
    let BackboneOutput::Map(map) = network.forward(pictures).unwrap() else { panic!("a map") };
    map
}

/// Asserts that values agree within `limit` times the largest expected one.
fn assert_close(case: &str, found: &Tensor, expected: &Tensor, limit: f64) {
    assert_eq!(found.size(), expected.size(), "{case}");
    let largest = expected.abs().max().double_value(&[]);
    assert!(largest > 0.01, "{case}: {largest} is the largest value");
    let off = (found - expected).abs().max().double_value(&[]) / largest;
    println!("{case}: off by {off:.1e} of the largest value");
    assert!(off <= limit, "{case}: off by {off}, limit {limit}");
}
