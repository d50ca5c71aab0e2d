use anyhow::Result;
use vqa_data::questions::import::Import;

use crate::args::ImportArgs;
use crate::terminal::print;

pub fn run(args: &ImportArgs) -> Result<()> {
    let import = Import {
        files: args.files.clone(),
        images: args.images.clone(),
        out: args.out.clone(),
        columns: args.columns.clone().unwrap_or_default(),
        val: args.val,
        val_by: args.val_by.into(),
        seed: args.seed,
        skip_bad: args.skip_bad,
        if_exists: args.force.if_exists(),
    };
    let report = import.run()?;
    if args.json {
        return print(&serde_json::to_string_pretty(&report)?);
    }
    let features = args.out.join("features.h5");
    print(&format!(
        "{report}\nnext: vqa features extract --images {} --out {} --backbone efficientnet-lite0\n      vqa train \
         --config {}",
        report.images.display(),
        features.display(),
        report.config.display()
    ))
}
