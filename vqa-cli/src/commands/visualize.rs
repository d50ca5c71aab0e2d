use std::slice;

use anyhow::Result;
use vqa_data::files::try_directory;
use vqa_infer::report::Report;

use crate::args::VisualizeArgs;
use crate::commands::asked;
use crate::terminal::print;

pub fn run(args: &VisualizeArgs) -> Result<()> {
    try_directory(&args.out_dir)?;
    let split = asked::open(slice::from_ref(&args.checkpoint), &args.split)?;
    let checkpoint = split.ensemble().first().name();
    let name = format!("{checkpoint}_{}_visualization", args.split.data);
    let n_questions = split.dataset().len().min(split.batch_size().saturating_mul(args.n_batches as usize));
    let questions: Vec<usize> = (0..n_questions).collect();
    let notes = vec![format!("{n_questions} questions of split {}, checkpoint {checkpoint}", args.split.data)];
    let mut report = Report::new(args.out_dir.join(name), "Where the model looks", notes);
    asked::explain(&split, &questions, &mut report)?;
    let page = report.finish()?;
    print(&format!("drew {n_questions} questions; open {}", page.display()))
}
