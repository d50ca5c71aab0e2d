use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use vqa_data::{ChannelStats, ElementType, Error, FeatureFile, Grid, Picture, RegionSource, TsvFiles, list_pictures};

use crate::args::{ConvertArgs, ExtractArgs, InspectArgs};
use crate::terminal::{Progress, print};

pub fn inspect(args: &InspectArgs) -> Result<()> {
    let file = FeatureFile::open(&args.file)?;
    let progress = Progress::new("inspect", "images", file.n_images() as u64);
    let summary = file.summarize(&|n| progress.add(n))?;
    drop(progress);
    if args.json {
        return print(&serde_json::to_string_pretty(&summary)?);
    }
    let regions = match (summary.min_regions, summary.max_regions) {
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min} to {max}"),
    };
    let ids = match (summary.min_image_id, summary.max_image_id) {
        (Some(min), Some(max)) => format!("ids {min} to {max}"),
        _ => "no ids".to_owned(),
    };
    let broken = match summary.first_not_finite {
        Some(image_id) => format!("{}, the first is image {image_id}", summary.n_not_finite),
        None => "0".to_owned(),
    };
    print(&format!(
        "file           {}\nfeatures       {:?}, {}\nimages         {}, {ids}\nregions        {regions} an image, {} numbers each\nvalues         {} to {}, mean {:.4}\nNaN or inf     {broken} image(s)\nall zero       {} image(s)",
        args.file.display(),
        summary.shape,
        summary.layout,
        summary.n_images,
        summary.feature_dim,
        summary.min,
        summary.max,
        summary.mean,
        summary.n_zero
    ))
}

pub fn convert(args: &ConvertArgs) -> Result<()> {
    /// Bad lines that are named.
    const SHOWN: usize = 5;
    let bytes = args.inputs.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum();
    let progress = Progress::new("index", "bytes", bytes);
    let mut tsv = TsvFiles::open(&args.inputs, &|n| progress.add(n))?;
    drop(progress);
    if let [first, ..] = tsv.bad_rows() {
        let n = tsv.bad_rows().len();
        if !args.skip_bad {
            anyhow::bail!(
                "{}: line {}: {}; {n} line(s) cannot be used, leave them out with --skip-bad",
                first.path.display(),
                first.line,
                first.problem
            );
        }
        for bad in tsv.bad_rows().iter().take(SHOWN) {
            eprintln!("left out: {}: line {}: {}", bad.path.display(), bad.line, bad.problem);
        }
        if n > SHOWN {
            eprintln!("left out: {} more line(s)", n - SHOWN);
        }
    }
    if let Some(path) = &args.ids {
        tsv.keep(&read_ids(path)?)?;
    }
    let element_type = if args.f16 { ElementType::F16 } else { ElementType::F32 };
    let progress = Progress::new("convert", "images", tsv.n_images() as u64);
    tsv.write(&args.out, element_type, &|n| progress.add(n))?;
    drop(progress);
    let file = FeatureFile::open(&args.out)?;
    print(&format!("wrote {} images, features {:?}, to {}", file.n_images(), file.shape(), args.out.display()))
}

/// Reads a file of image ids, one a line.
fn read_ids(path: &Path) -> Result<HashSet<u64>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let id = line.trim().parse();
            id.map_err(|_| anyhow::anyhow!("{}: line {}: \"{}\" is no image id", path.display(), i + 1, line.trim()))
        })
        .collect()
}

pub fn extract(args: &ExtractArgs) -> Result<()> {
    /// Side of a region where none is given.
    const DEFAULT_PATCH: u32 = 16;
    let pictures = list_pictures(&args.images)?;
    let (grid, stats) = match &args.like {
        Some(other) => {
            let (grid, stats) = Grid::like(other)?;
            let given = args.grid.map_or((grid.rows, grid.columns), |given| given);
            let differs = given != (grid.rows, grid.columns)
                || (args.whole && !grid.whole)
                || args.patch.is_some_and(|patch| patch != grid.patch);
            if differs {
                anyhow::bail!(
                    "{} was made with --grid {}x{}{} --patch {}: give the same, or leave them to --like",
                    other.display(),
                    grid.rows,
                    grid.columns,
                    if grid.whole { " --whole" } else { "" },
                    grid.patch
                );
            }
            (grid, stats)
        }
        None => {
            let (rows, columns) = args.grid.context("--grid is wanted")?;
            let patch = args.patch.unwrap_or(DEFAULT_PATCH);
            let grid = Grid { rows, columns, whole: args.whole, patch };
            (grid, measure(&pictures)?)
        }
    };
    let element_type = if args.f16 { ElementType::F16 } else { ElementType::F32 };
    write(&pictures, grid, &stats, element_type, &args.out)?;
    print(&format!(
        "wrote {} images x {} regions x {} numbers to {}\nmean {:.4?}, deviation {:.4?} of red, green, blue (0 to 1)",
        pictures.len(),
        grid.n_regions(),
        grid.feature_dim(),
        args.out.display(),
        stats.mean,
        stats.std
    ))
}

/// Mean and deviation of the pictures, with a progress bar.
pub fn measure(pictures: &[Picture]) -> Result<ChannelStats> {
    let progress = Progress::new("measure", "pictures", pictures.len() as u64);
    Ok(ChannelStats::measure(pictures, &|n| progress.add(n))?)
}

/// Extracts pictures to a file, with a progress bar.
pub fn write(
    pictures: &[Picture],
    grid: Grid,
    stats: &ChannelStats,
    element_type: ElementType,
    out: &Path,
) -> Result<()> {
    let progress = Progress::new("extract", "pictures", pictures.len() as u64);
    Ok(vqa_data::extract(pictures, grid, stats, element_type, out, &|n| progress.add(n))?)
}
