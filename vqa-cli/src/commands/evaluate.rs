use anyhow::{Result, bail};
use serde::Serialize;
use vqa_data::{Accuracy, write_atomic};

use crate::args::EvaluateArgs;
use crate::commands::asked::Asked;
use crate::commands::score::table;
use crate::terminal::print;

/// What `evaluate --json` prints. Scores are percentages.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    pub data: String,
    pub n_questions: usize,
    pub soft_score: f64,
    pub upper_bound: f64,
    pub accuracy: Accuracy,
}

pub fn run(args: &EvaluateArgs) -> Result<()> {
    let asked = Asked::open(&args.model)?;
    if asked.dataset().split().annotations.is_empty() {
        bail!("{}: no annotations to score against; use `vqa predict`", asked.place());
    }
    let answered = asked.answer_all()?;
    let evaluation = Evaluation {
        data: args.model.data.clone(),
        n_questions: answered.answers.len(),
        soft_score: answered.soft_score,
        upper_bound: answered.upper_bound,
        accuracy: Accuracy::of(&answered.answers, &asked.dataset().split().annotations)?,
    };
    if let Some(path) = &args.results {
        write_atomic(path, &serde_json::to_vec(&answered.answers)?)?;
    }
    if args.json {
        return print(&serde_json::to_string(&evaluation)?);
    }
    print(&format!(
        "{}: {} questions\nsoft score {:>27.2}\nupper bound {:>26.2}\n{}",
        evaluation.data,
        evaluation.n_questions,
        evaluation.soft_score,
        evaluation.upper_bound,
        table(&evaluation.accuracy)
    ))
}
