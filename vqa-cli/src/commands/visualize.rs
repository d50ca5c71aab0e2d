use anyhow::Result;
use vqa_infer::Report;

use crate::args::VisualizeArgs;
use crate::commands::asked::Asked;
use crate::terminal::print;

pub fn run(args: &VisualizeArgs) -> Result<()> {
    let asked = Asked::open(&args.model)?;
    let name = format!("{}_{}_visualization", asked.name(), args.model.data);
    let n_questions = asked.dataset().len().min(asked.batch_size().saturating_mul(args.n_batches as usize));
    let questions: Vec<usize> = (0..n_questions).collect();
    let notes = vec![format!("{n_questions} questions of split {}, checkpoint {}", args.model.data, asked.name())];
    let mut report = Report::new(args.out_dir.join(name), "Where the model looks", notes);
    asked.explain(&questions, &mut report)?;
    let page = report.finish()?;
    print(&format!("drew {n_questions} questions; open {}", page.display()))
}
