use anyhow::Result;
use vqa_data::files::{try_file, write_atomic};

use crate::args::PredictArgs;
use crate::commands::asked;
use crate::terminal::print;

pub fn run(args: &PredictArgs) -> Result<()> {
    try_file(&args.out)?;
    let answers = asked::answer_all(&asked::open(&args.model)?)?.answers;
    write_atomic(&args.out, &serde_json::to_vec(&answers)?)?;
    print(&format!("wrote {} answers to {}", answers.len(), args.out.display()))
}
