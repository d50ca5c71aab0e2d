use std::path::Path;

use anyhow::Result;
use vqa_data::shapes::{ShapesSpec, write_shapes};

use crate::args::SynthArgs;
use crate::progress::ProgressBar;
use crate::terminal::print;

pub fn run(args: &SynthArgs) -> Result<()> {
    write(&args.out, args.images, args.seed)?;
    print(&format!("wrote {} images with questions and annotations to {}", args.images, args.out.display()))
}

/// Writes the shapes world, with about five images in six for training.
pub fn write(directory: &Path, n_images: u64, seed: u64) -> Result<()> {
    let progress = ProgressBar::new("draw", "images", n_images);
    let n_val = (n_images / 6).max(1);
    let spec = ShapesSpec { n_train: (n_images - n_val) as usize, n_val: n_val as usize, seed };
    Ok(write_shapes(directory, spec, &|n| progress.add(n))?)
}
