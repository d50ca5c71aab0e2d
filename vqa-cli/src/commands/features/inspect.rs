use anyhow::Result;
use vqa_data::features::{FeatureFile, RegionSource};
use vqa_data::message::counted;

use crate::args::InspectArgs;
use crate::progress::ProgressBar;
use crate::terminal::print;

pub fn run(args: &InspectArgs) -> Result<()> {
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
        Some(image_id) => format!("{}, the first is {image_id}", counted(summary.n_not_finite, "image")),
        None => counted(0, "image"),
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
         all zero       {}, {}\n\
         load speed     {speed}",
        args.file.display(),
        summary.shape,
        summary.layout,
        summary.n_images,
        summary.feature_dim,
        counted(summary.n_zero, "image"),
        counted(summary.n_zero_regions, "region")
    ))
}
