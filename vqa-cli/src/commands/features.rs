use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use vqa_data::Error;
use vqa_data::features::{
    BadImage, ChannelStats, Check, Collection, Extraction, FeatureFile, FeatureWriter, Grid, ImageFile, ImageFolder,
    Output, PixelGrid, RegionSource, Shard, read_image_ids,
};
use vqa_data::files::IfExists;

use crate::args::{ConvertArgs, ExtractArgs, InspectArgs};
use crate::progress::ProgressBar;
use crate::terminal::{print, say};

pub fn inspect(args: &InspectArgs) -> Result<()> {
    let file = FeatureFile::open(&args.file)?;
    let progress = ProgressBar::new("inspect", "images", file.n_images() as u64);
    let summary = file.summarize(&|n| progress.add(n))?;
    drop(progress);
    if args.json {
        return print(&serde_json::to_string_pretty(&summary)?);
    }
    let regions = match (summary.min_regions, summary.max_regions) {
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min} to {max}, {:.1} on average,", summary.mean_regions),
    };
    let extractor = summary.extractor.map_or_else(|| "not named".to_owned(), |extractor| extractor.to_string());
    let ids = match (summary.min_image_id, summary.max_image_id) {
        (Some(min), Some(max)) => format!("ids {min} to {max}"),
        _ => "no ids".to_owned(),
    };
    let values = match (summary.min, summary.max) {
        (min, max) if min <= max => format!("{min} to {max}, mean {:.4}", summary.mean),
        _ => "none are finite".to_owned(),
    };
    let broken = match summary.first_not_finite {
        Some(image_id) => format!("{} image(s), the first is {image_id}", summary.n_not_finite),
        None => "0 image(s)".to_owned(),
    };
    let speed = summary.load_speed.map_or_else(
        || "not measured: too few images".to_owned(),
        |speed| {
            let (images, gigabytes) = (speed.images_per_s, speed.bytes_per_s / 1e9);
            format!(
                "{images:.0} images/s, {gigabytes:.2} GB/s, {} images in random order, on all cores",
                speed.n_images
            )
        },
    );
    print(&format!(
        "file           {}\n\
         features       {:?}, {}\n\
         extractor      {extractor}\n\
         images         {}, {ids}\n\
         regions        {regions} an image, {} values each\n\
         values         {values}\n\
         NaN or inf     {broken}\n\
         all zero       {} image(s), {} region(s)\n\
         load speed     {speed}",
        args.file.display(),
        summary.shape,
        summary.layout,
        summary.n_images,
        summary.feature_dim,
        summary.n_zero,
        summary.n_zero_regions
    ))
}

pub fn convert(args: &ConvertArgs) -> Result<()> {
    // Before anything takes time.
    let mut outputs = outputs(args)?;
    for (path, output) in paths(&outputs, args.shard).zip(&outputs) {
        output.if_exists.check(&path)?;
    }
    let check = if args.skip_bad { Check::Everything } else { Check::Index };
    let progress = ProgressBar::new("index", "bytes", Collection::n_bytes(&args.inputs));
    let collection = Collection::open(&args.inputs, check, &|n| progress.add(n))?;
    drop(progress);
    if let [first, ..] = collection.bad_images()
        && !args.skip_bad
    {
        let n = collection.bad_images().len();
        anyhow::bail!("{first}; {n} image(s) cannot be used; skip them with --skip-bad");
    }
    report_bad(collection.bad_images());
    let missing = if args.skip_bad { leave_out_missing(&collection, &mut outputs) } else { Vec::new() };
    let element_type = args.element_type.get().unwrap_or(collection.element_type());
    let n_wanted = collection.n_wanted(&outputs, args.shard)?;
    let progress = ProgressBar::new("convert", "images", n_wanted as u64);
    collection.convert(&outputs, element_type, args.shard, &|n| progress.add(n)).map_err(|error| {
        let can_be_left_out = matches!(error, Error::BadImage(_)) && !args.skip_bad;
        let hint = if can_be_left_out { "; skip bad images with --skip-bad" } else { "" };
        anyhow::anyhow!("{}{hint}", what_is_kept(error, paths(&outputs, args.shard)))
    })?;
    drop(progress);
    let mut written = Vec::new();
    for path in paths(&outputs, args.shard) {
        let file = FeatureFile::open(&path)?;
        let (n, shape) = (file.n_images(), file.shape());
        if args.json {
            written.push(json!({"path": path, "n_images": n, "shape": shape, "dtype": file.dtype()}));
        } else {
            print(&format!("wrote {n} images, features {shape:?}, to {}", path.display()))?;
        }
    }
    if args.json {
        let report = json!({"written": written, "left_out": collection.bad_images(), "missing": missing});
        print(&serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// The files to write, with the images for each.
fn outputs(args: &ConvertArgs) -> Result<Vec<Output>> {
    let output = |ids: Option<&PathBuf>, path: &PathBuf| {
        let image_ids = ids.map(|ids| read_image_ids(ids)).transpose()?;
        Ok(Output { path: path.clone(), image_ids, if_exists: args.force.if_exists() })
    };
    let mut outputs: Vec<Output> =
        args.split.iter().map(|(ids, path)| output(Some(ids), path)).collect::<Result<_>>()?;
    if let Some(out) = &args.out {
        outputs.push(output(args.ids.as_ref(), out)?);
    }
    Ok(outputs)
}

/// Removes missing images from the outputs, and returns their ids: in order, each once.
fn leave_out_missing(collection: &Collection, outputs: &mut [Output]) -> Vec<u64> {
    let mut all = BTreeSet::new();
    for Output { path, image_ids, .. } in outputs {
        let Some(ids) = image_ids else { continue };
        let missing = collection.missing(ids);
        // A list without any of the images belongs to another input, which is an error later.
        if missing.len() == ids.len() {
            continue;
        }
        for id in missing {
            say!("skipped: image {id}, listed for {}, is not in the input", path.display());
            ids.remove(&id);
            all.insert(id);
        }
    }
    all.into_iter().collect()
}

/// An error that ended the writing of files, and whether the same command can resume from there.
fn what_is_kept(error: Error, mut paths: impl Iterator<Item = PathBuf>) -> anyhow::Error {
    // Bad data stays bad, but a full disk can be emptied.
    if error.is_retryable() && paths.any(|path| FeatureWriter::partial_path(&path).exists()) {
        return anyhow::anyhow!("{error}; the work so far is kept, and the same command resumes from there");
    }
    error.into()
}

/// Where the outputs, or their shards, are written.
fn paths(outputs: &[Output], shard: Option<Shard>) -> impl Iterator<Item = PathBuf> {
    outputs.iter().map(move |output| Shard::output(shard, &output.path))
}

/// Says which images are skipped.
fn report_bad(bad: &[BadImage]) {
    if bad.is_empty() {
        return;
    }
    for bad in bad {
        say!("skipped: {bad}");
    }
    say!("skipped: {} image(s) in all", bad.len());
}

pub fn extract(args: &ExtractArgs) -> Result<()> {
    /// Side of a region where none is given.
    const DEFAULT_PATCH: u32 = 16;
    let path = Shard::output(args.shard, &args.out);
    args.force.if_exists().check(&path)?;
    let mut folder = ImageFolder::search(&args.images)?;
    let (grid, like_stats) = match &args.like {
        Some(other) => {
            let PixelGrid { grid, stats } = like(other)?;
            let given = args.grid.map_or((grid.rows, grid.columns), |given| given);
            let differs = given != (grid.rows, grid.columns)
                || (args.whole && !grid.whole)
                || args.patch.is_some_and(|patch| patch != grid.patch);
            if differs {
                anyhow::bail!(
                    "{} was extracted with --grid {}x{}{} --patch {}: pass the same values, or only --like",
                    other.display(),
                    grid.rows,
                    grid.columns,
                    if grid.whole { " --whole" } else { "" },
                    grid.patch
                );
            }
            (grid, Some(stats))
        }
        None => {
            let (rows, columns) = args.grid.context("--grid is required")?;
            let patch = args.patch.unwrap_or(DEFAULT_PATCH);
            (Grid { rows, columns, whole: args.whole, patch }, None)
        }
    };
    let stats = match like_stats {
        // Nothing has to be decoded before it is extracted, and all is well as a rule.
        Some(stats) if !args.skip_bad => stats,
        _ => {
            let progress = ProgressBar::new("measure", "pictures", folder.images().len() as u64);
            let measured = folder.check(grid.min_size(), &|n| progress.add(n))?;
            like_stats.unwrap_or(measured)
        }
    };
    if args.skip_bad {
        report_bad(folder.bad_images());
    } else {
        folder.refuse_bad().map_err(hint_at_skip_bad)?;
    }
    let element_type = args.element_type.get().unwrap_or_default();
    let extractor = &PixelGrid { grid, stats };
    let extraction = Extraction { extractor, element_type, shard: args.shard };
    let n_images = write(folder.images(), &extraction, &args.out, args.force.if_exists())?;
    let shape = [n_images, grid.n_regions(), grid.feature_dim()];
    let ChannelStats { mean, std } = stats;
    if folder.left_out().n_files() > 0 {
        say!("skipped: {}", folder.left_out());
    }
    if args.json {
        let report = json!({
            "path": path,
            "n_images": n_images,
            "shape": shape,
            "mean": mean,
            "std": std,
            "left_out": folder.bad_images(),
            "other_files": folder.left_out(),
        });
        return print(&serde_json::to_string_pretty(&report)?);
    }
    print(&format!(
        "wrote {n_images} images x {} regions x {} values to {}\nmean {mean:.4?}, deviation {std:.4?} of red, \
         green, blue (0 to 1)",
        shape[1],
        shape[2],
        path.display(),
    ))
}

/// The extractor that a feature file was made with.
fn like(path: &Path) -> Result<PixelGrid> {
    let file = FeatureFile::open(path)?;
    let info = file.extractor().with_context(|| {
        format!("{}: it does not say how it was made: only files from `vqa features extract` do", path.display())
    })?;
    PixelGrid::from_info(info).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))
}

/// An error, and how to skip the images that it is about.
fn hint_at_skip_bad(error: Error) -> anyhow::Error {
    match error {
        Error::BadImages(_) => anyhow::anyhow!("{error}; skip them with --skip-bad"),
        error => error.into(),
    }
}

/// Extracts images to a file, with a progress bar. Returns how many: all, or those of a shard.
pub fn write(pictures: &[ImageFile], extraction: &Extraction, out: &Path, if_exists: IfExists) -> Result<usize> {
    let n_images = Shard::part(extraction.shard, pictures).len();
    let progress = ProgressBar::new("extract", "images", n_images as u64);
    let written = extraction.write(pictures, out, if_exists, &|n| progress.add(n));
    written.map_err(|error| match error {
        Error::BadImages(_) => hint_at_skip_bad(error),
        error => what_is_kept(error, std::iter::once(Shard::output(extraction.shard, out))),
    })?;
    Ok(n_images)
}
