use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;
use vqa_data::Error;
use vqa_data::features::{
    ChannelStats, Extraction, ExtractionTime, Extractor, ExtractorInfo, FeatureFile, Grid, ImageFile, ImageFolder,
    PixelGrid, RegionSource, Shard,
};
use vqa_data::files::IfExists;

use crate::args::ExtractArgs;
#[cfg(feature = "torch")]
use crate::commands::features::backbone;
use crate::commands::features::problems::{report_bad, what_is_kept};
use crate::progress::ProgressBar;
use crate::terminal::{print, say};

pub fn run(args: &ExtractArgs) -> Result<()> {
    let path = Shard::output(args.shard, &args.out);
    args.force.if_exists().check(&path)?;
    let mut folder = ImageFolder::open(&args.images)?;
    let like = args.like.as_deref().map(info_of).transpose()?;
    let uses_pixels = match &like {
        Some(info) => info.kind() == Some(PixelGrid::KIND) && args.backbone.backbone.is_none(),
        None => args.backbone.backbone.is_none(),
    };
    #[cfg(feature = "torch")]
    if let Some(weights) = args.backbone.weights.as_deref().filter(|_| uses_pixels) {
        bail!("--weights {}: a grid of pixels is extracted without a network: leave it out", weights.display());
    }
    let extractor = if uses_pixels {
        Box::new(pixels(args, like.as_ref(), &mut folder)?)
    } else {
        let extractor = network(args, like.as_ref())?;
        if args.skip_bad {
            check(&mut folder, extractor.min_size())?;
        }
        extractor
    };
    if args.skip_bad {
        report_bad(folder.bad_images());
    } else {
        folder.refuse_bad().map_err(hint_at_skip_bad)?;
    }
    let element_type = args.element_type.get().unwrap_or_default();
    #[cfg(feature = "torch")]
    let batch_size = args.backbone.batch_size.map(|n| n as usize);
    #[cfg(not(feature = "torch"))]
    let batch_size = None;
    let extraction = Extraction { extractor: &*extractor, element_type, shard: args.shard, batch_size };
    let time = write(folder.images(), &extraction, &args.out, args.force.if_exists())?;
    let file = FeatureFile::open(&path)?;
    let (n_images, shape) = (file.n_images(), file.shape());
    if folder.left_out().n_files() > 0 {
        say!("skipped: {}", folder.left_out());
    }
    let info = extractor.info();
    let pixels = PixelGrid::from_info(&info).ok();
    if args.json {
        let mut report = json!({
            "path": path,
            "n_images": n_images,
            "shape": shape,
            "extractor": info,
            "seconds": time.total.as_secs_f64(),
            "waiting_seconds": time.waiting.as_secs_f64(),
            "left_out": folder.bad_images(),
            "other_files": folder.left_out(),
        });
        if let Some(PixelGrid { stats: ChannelStats { mean, std }, .. }) = pixels {
            report["mean"] = json!(mean);
            report["std"] = json!(std);
        }
        return print(&serde_json::to_string_pretty(&report)?);
    }
    let wrote = match *shape {
        [n, k, dim] => format!("wrote {n} images x {k} regions x {dim} values to {}", path.display()),
        _ => format!("wrote {n_images} images, features {shape:?}, to {}", path.display()),
    };
    let how = match pixels {
        Some(PixelGrid { stats: ChannelStats { mean, std }, .. }) => {
            format!("mean {mean:.4?}, deviation {std:.4?} of red, green, blue (0 to 1)")
        }
        None => speed(n_images, time),
    };
    print(&format!("{wrote}\n{how}"))
}

/// How fast the extraction was, and how much of the time it waited.
fn speed(n_images: usize, ExtractionTime { n_extracted, total, waiting }: ExtractionTime) -> String {
    if n_extracted == 0 {
        return format!("all {n_images} images were already extracted");
    }
    let seconds = total.as_secs_f64().max(1e-9);
    format!(
        "{n_extracted} images in {seconds:.1} s, {:.1} images/s; the network waited for pictures {:.0} % of the time",
        n_extracted as f64 / seconds,
        100.0 * waiting.as_secs_f64() / seconds
    )
}

/// The extractor that a feature file was made with.
fn info_of(path: &Path) -> Result<ExtractorInfo> {
    let file = FeatureFile::open(path)?;
    let info = file.extractor().cloned();
    info.with_context(|| {
        format!(
            "{}: it does not record how it was extracted: only files from `vqa features extract` do",
            path.display()
        )
    })
}

/// The extractor of pixels that the arguments specify. Pixels are standardised with the statistics of another file, if
/// one is given, or else of all pictures.
fn pixels(args: &ExtractArgs, like: Option<&ExtractorInfo>, folder: &mut ImageFolder) -> Result<PixelGrid> {
    /// The side of a region if none is given.
    const DEFAULT_PATCH: u32 = 16;
    let Some(info) = like else {
        let (rows, columns) = args.grid.context("--grid is required")?;
        let grid = Grid { rows, columns, whole: args.whole, patch: args.patch.unwrap_or(DEFAULT_PATCH) };
        return Ok(PixelGrid { grid, stats: check(folder, grid.min_size())? });
    };
    let other = args.like.as_deref().unwrap_or(Path::new("--like"));
    let pixels = PixelGrid::from_info(info).map_err(|problem| anyhow::anyhow!("{}: {problem}", other.display()))?;
    let grid = pixels.grid;
    let differs = args.grid.is_some_and(|given| given != (grid.rows, grid.columns))
        || (args.whole && !grid.whole)
        || args.patch.is_some_and(|patch| patch != grid.patch);
    if differs {
        bail!(
            "{} was extracted with --grid {}x{}{} --patch {}: pass the same values, or only --like",
            other.display(),
            grid.rows,
            grid.columns,
            if grid.whole { " --whole" } else { "" },
            grid.patch
        );
    }
    // Without --skip-bad, nothing has to be decoded before extraction.
    if args.skip_bad {
        check(folder, grid.min_size())?;
    }
    Ok(pixels)
}

/// The extractor with a network that the arguments or another feature file specify.
#[cfg(feature = "torch")]
fn network(args: &ExtractArgs, like: Option<&ExtractorInfo>) -> Result<Box<dyn Extractor>> {
    backbone::extractor(args, like)
}

#[cfg(not(feature = "torch"))]
fn network(_: &ExtractArgs, _: Option<&ExtractorInfo>) -> Result<Box<dyn Extractor>> {
    bail!(
        "this vqa was built without libtorch (--no-default-features), which extracting features with a network needs: \
         use a vqa built with it, or extract the pixels of a --grid"
    )
}

/// Decodes all images, sets aside those that fail, and computes the pixel statistics of the others.
fn check(folder: &mut ImageFolder, min_size: [u32; 2]) -> Result<ChannelStats> {
    let progress = ProgressBar::new("measure", "pictures", folder.images().len() as u64);
    Ok(folder.check(min_size, &|n| progress.add(n))?)
}

/// Adds to an error how to skip the images that it is about.
fn hint_at_skip_bad(error: Error) -> anyhow::Error {
    match error {
        Error::BadImages(_) => anyhow::anyhow!("{error}; skip them with --skip-bad"),
        error => error.into(),
    }
}

/// Extracts images to a file, either all or those of a shard, with a progress bar.
pub fn write(
    pictures: &[ImageFile],
    extraction: &Extraction,
    out: &Path,
    if_exists: IfExists,
) -> Result<ExtractionTime> {
    let n_images = Shard::part(extraction.shard, pictures).len();
    let progress = ProgressBar::new("extract", "images", n_images as u64);
    let written = extraction.write(pictures, out, if_exists, &|n| progress.add(n));
    written.map_err(|error| match error {
        Error::BadImages(_) => hint_at_skip_bad(error),
        error => what_is_kept(error, std::iter::once(Shard::output(extraction.shard, out))),
    })
}
