//! Recreates an extractor from its description.

use std::path::Path;

use tch::Device;
use vqa_data::features::{Extractor, ExtractorInfo, PixelGrid};

use crate::backbone::backbone::BackboneInfo;
use crate::backbone::extractor::BackboneExtractor;
use crate::backbone::extractor_settings::ExtractorSettings;
use crate::backbone::open::{NAMES, OpenOptions, open_with};
use crate::error::{Error, Result};

/// Recreates the extractor that a feature file or checkpoint describes. `weights` is the file of a backbone's weights,
/// or the TorchScript file; it can be left out for weights that `make setup` installs.
///
/// # Errors
///
/// When the description is not of an extractor of this project; when the weights are missing, damaged, or not those
/// that the features were extracted with; and when there are weights, but the extractor has no network.
pub fn extractor_of(info: &ExtractorInfo, weights: Option<&Path>, device: Device) -> Result<Box<dyn Extractor>> {
    let unusable = |problem: String| {
        Error::Backbone(format!("the features were made by {info}, which cannot be set up again ({problem})"))
    };
    match info.kind() {
        Some(PixelGrid::KIND) => match weights {
            Some(weights) => Err(Error::Backbone(format!(
                "the features are the pixels of a grid, made without a network, so there is no use for {}: leave out \
                 --weights",
                weights.display()
            ))),
            None => Ok(Box::new(PixelGrid::from_info(info).map_err(unusable)?)),
        },
        Some(ExtractorSettings::KIND) => {
            let settings: ExtractorSettings = info.settings().map_err(unusable)?;
            let name = &settings.backbone;
            let is_built_in = NAMES.contains(&&**name);
            // A TorchScript file contains its weights, so its path takes the place of the name.
            let (name_or_path, weights) = match weights {
                Some(path) if !is_built_in => (path.to_string_lossy().into_owned(), None),
                weights => (name.clone(), weights.map(Path::to_owned)),
            };
            if !is_built_in && !Path::new(&name_or_path).exists() {
                return Err(Error::Backbone(format!(
                    "the features were made with {name} (SHA-256 {}), but {name_or_path} does not exist: give the path \
                     of that file with --weights",
                    settings.sha256
                )));
            }
            let options = OpenOptions {
                device,
                weights,
                preprocessing: settings.preprocessing_options(),
                precision: settings.precision,
            };
            let backbone = open_with(&name_or_path, &options)?;
            let BackboneInfo { weights, sha256, .. } = backbone.info();
            if *sha256 != settings.sha256 {
                return Err(Error::weights_mismatch(
                    weights,
                    format!(
                        "its SHA-256 is {sha256}, but the features were made with the {name} whose SHA-256 is {}: give \
                         that file with --weights",
                        settings.sha256
                    ),
                ));
            }
            Ok(Box::new(BackboneExtractor::new(backbone, settings.options())?))
        }
        _ => Err(Error::Backbone(format!(
            "the features were made by {info}, but only features of `vqa features extract` can be extracted from other \
             pictures: extract your own, or use pictures whose features you have"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use vqa_data::features::{ChannelStats, Grid};

    use super::*;

    #[test]
    fn extractors_are_made_from_their_descriptions() {
        let of = |info: &ExtractorInfo| extractor_of(info, None, Device::Cpu);
        let grid = Grid { rows: 2, columns: 3, whole: true, patch: 4 };
        let pixels = PixelGrid { grid, stats: ChannelStats { mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6] } };
        assert_eq!(of(&pixels.info()).unwrap().info(), pixels.info());
        let error = extractor_of(&pixels.info(), Some("w.pt".as_ref()), Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("no use for w.pt: leave out --weights"), "{error}");
        for (text, words) in [
            ("bottom-up-attention", "only features of `vqa features extract`"),
            (r#"{"kind": "grid", "grid": [2, 2]}"#, "cannot be set up again (missing field `whole`)"),
            (r#"{"kind": "backbone"}"#, "cannot be set up again (missing field `backbone`)"),
            (
                r#"{"kind": "backbone", "backbone": "nowhere.pt", "sha256": "12ab", "precision": "fp32",
                    "size": [4, 4], "filter": "bilinear", "channels": "RGB", "scale": 1, "mean": [0, 0, 0],
                    "deviation": [1, 1, 1], "grid": [1, 1], "whole": false}"#,
                "nowhere.pt does not exist: give the path of that file with --weights",
            ),
        ] {
            let error = of(&ExtractorInfo::parse(text)).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
