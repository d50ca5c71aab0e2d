//! Builds the extractor that runs a network.

use anyhow::{Result, bail};
use serde::Deserialize;
use vqa_data::features::{Extractor, ExtractorInfo};
use vqa_model::backbone::{
    BackboneExtractor, ExtractorOptions, OpenOptions, PreprocessingOptions, Regions, Selection, extractor_of, open_with,
};
use vqa_model::device::{parse_device, warn_if_slow};
use vqa_model::feed::Precision;

use crate::args::{BackboneArgs, ExtractArgs};

/// Of the settings of a network's features, the number format that it computed in.
#[derive(Deserialize)]
struct Arithmetic {
    precision: Precision,
}

/// The extractor that the arguments or another feature file specify.
pub fn extractor(args: &ExtractArgs, like: Option<&ExtractorInfo>) -> Result<Box<dyn Extractor>> {
    let BackboneArgs { backbone, weights, filter, boxes, min_score, device, precision, .. } = &args.backbone;
    let device = parse_device(device.as_deref().unwrap_or("auto"))?;
    let Some(name) = backbone else {
        let Some(info) = like else { bail!("--backbone is required") };
        if args.grid.is_some() || args.whole || args.patch.is_some() {
            bail!("--like sets the grid and everything else about a network's features: pass it alone");
        }
        if let Some(given) = precision
            && info.settings::<Arithmetic>().is_ok_and(|Arithmetic { precision }| precision != *given)
        {
            bail!("--like and --precision ask for different arithmetic: pass --like alone");
        }
        return Ok(extractor_of(info, weights.as_deref(), device)?);
    };
    let precision = precision.unwrap_or_default();
    warn_if_slow(device, precision);
    let options =
        OpenOptions { device, weights: weights.clone(), preprocessing: preprocessing(&args.backbone), precision };
    let backbone = open_with(name, &options)?;
    let mut options = ExtractorOptions::of(&*backbone);
    options.filter = filter.unwrap_or(options.filter);
    match &mut options.regions {
        Regions::Cells { grid, whole } => {
            if boxes.is_some() || min_score.is_some() {
                bail!("--boxes and --min-score are for detectors, but {name} returns a feature map: use --grid");
            }
            if let Some((rows, columns)) = args.grid {
                (*grid, *whole) = ([rows, columns], args.whole);
            }
        }
        Regions::Boxes(selection) => {
            if args.grid.is_some() || args.whole {
                bail!("{name} is a detector, whose boxes are the regions: use --boxes instead of --grid and --whole");
            }
            let (min_boxes, max_boxes) = boxes.unwrap_or((selection.min_boxes, selection.max_boxes));
            let min_score = min_score.unwrap_or(selection.min_score);
            *selection = Selection { min_boxes, max_boxes, min_score, ..*selection };
        }
    }
    let extractor = BackboneExtractor::new(backbone, options)?;
    if let Some(other) = like
        && let Some(difference) = other.difference(&extractor.info())
    {
        bail!("--like and the other options ask for different features ({difference}): pass --like alone");
    }
    Ok(Box::new(extractor))
}

/// The preprocessing that the arguments specify.
fn preprocessing(args: &BackboneArgs) -> PreprocessingOptions {
    let &BackboneArgs { size, scale, mean, deviation, channel_order, .. } = args;
    PreprocessingOptions {
        size: size.map(|(height, width)| [height, width]),
        scale,
        mean,
        deviation,
        channel_order,
        ..PreprocessingOptions::default()
    }
}
