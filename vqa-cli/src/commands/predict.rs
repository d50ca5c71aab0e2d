use anyhow::Result;
use vqa_data::write_atomic;

use crate::args::PredictArgs;
use crate::commands::asked::Asked;
use crate::terminal::print;

pub fn run(args: &PredictArgs) -> Result<()> {
    let answers = Asked::open(&args.model)?.answer_all()?.answers;
    write_atomic(&args.out, &serde_json::to_vec(&answers)?)?;
    print(&format!("wrote {} answers to {}", answers.len(), args.out.display()))
}
