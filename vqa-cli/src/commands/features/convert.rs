use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use vqa_data::Error;
use vqa_data::features::{Check, Collection, FeatureFile, FeatureWriter, Output, RegionSource, Shard, read_image_ids};
use vqa_data::message::counted;

use crate::args::ConvertArgs;
use crate::commands::features::problems::{report_bad, what_is_kept};
use crate::progress::ProgressBar;
use crate::terminal::{print, say};

pub fn run(args: &ConvertArgs) -> Result<()> {
    // Checked before anything slow.
    let mut outputs = outputs(args)?;
    for (path, output) in paths(&outputs, args.shard).zip(&outputs) {
        output.if_exists.check(&path)?;
        FeatureWriter::try_path(&path)?;
    }
    let check = if args.skip_bad { Check::Everything } else { Check::Index };
    let progress = ProgressBar::new("index", "bytes", Collection::n_bytes(&args.inputs));
    let collection = Collection::open(&args.inputs, check, &|n| progress.add(n))?;
    drop(progress);
    if let [first, ..] = collection.bad_images()
        && !args.skip_bad
    {
        let images = counted(collection.bad_images().len(), "image");
        anyhow::bail!("{first}; {images} cannot be used; skip them with --skip-bad");
    }
    report_bad(collection.bad_images());
    let missing = if args.skip_bad { leave_out_missing(&collection, &mut outputs) } else { Vec::new() };
    let element_type = args.element_type.get().unwrap_or(collection.element_type());
    let n_wanted = collection.n_wanted(&outputs, args.shard)?;
    let progress = ProgressBar::new("convert", "images", n_wanted as u64);
    collection.convert(&outputs, element_type, args.shard, &|n| progress.add(n)).map_err(|error| {
        let can_be_left_out = matches!(error, Error::BadImage(_)) && !args.skip_bad;
        let unfinished = paths(&outputs, args.shard).map(|path| FeatureWriter::partial_path(&path));
        let hint = if can_be_left_out { "; skip bad images with --skip-bad" } else { "" };
        anyhow::anyhow!("{}{hint}", what_is_kept(error, unfinished))
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
        // If all of a list's images are missing, the list belongs to another input, which is an error later.
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

/// Where the outputs, or their shards, are written.
fn paths(outputs: &[Output], shard: Option<Shard>) -> impl Iterator<Item = PathBuf> {
    outputs.iter().map(move |output| Shard::output(shard, &output.path))
}
