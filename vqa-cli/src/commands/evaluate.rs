use anyhow::{Result, bail};
use serde::Serialize;
use vqa_data::evaluator::{Accuracy, warn_of_few_answers, warn_of_missing_answer_ids};
use vqa_data::files::{try_file, write_atomic};
use vqa_data::questions::Annotations;

use crate::args::EvaluateArgs;
use crate::commands::asked;
use crate::commands::score::{row, table};
use crate::terminal::print;

/// What `evaluate --json` prints. Scores are percentages.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    pub data: String,
    pub n_questions: usize,
    pub soft_score: f64,
    pub upper_bound: f64,
    pub accuracy: Accuracy,
    /// With `--blind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind: Option<Blind>,
}

/// Scores of the same model with every question asked about another image.
#[derive(Debug, Serialize)]
pub struct Blind {
    /// Seed of the choice of images.
    pub seed: u64,
    pub soft_score: f64,
    pub accuracy: Accuracy,
}

pub fn run(args: &EvaluateArgs) -> Result<()> {
    if let Some(path) = &args.results {
        try_file(path)?;
    }
    let split = asked::open(&args.model.checkpoint, &args.model.split)?;
    let annotations = &split.dataset().split().annotations;
    if annotations.is_empty() {
        bail!("{}: no annotations to score against: use `vqa predict`", split.place());
    }
    warn_of_few_answers([(&*args.model.split.data, annotations)]);
    warn_of_missing_answer_ids(annotations);
    let answered = asked::answer_all(&split)?;
    let blind = match args.blind {
        true => {
            let answered = asked::answer_blind(&split)?;
            let accuracy = answered.accuracy(annotations);
            Some(Blind { seed: split.ensemble().first().seed(), soft_score: answered.soft_score, accuracy })
        }
        false => None,
    };
    let evaluation = Evaluation {
        data: args.model.split.data.clone(),
        n_questions: answered.answers.len(),
        soft_score: answered.soft_score,
        upper_bound: answered.upper_bound,
        accuracy: answered.accuracy(annotations),
        blind,
    };
    if let Some(path) = &args.results {
        write_atomic(path, &serde_json::to_vec(&answered.answers)?)?;
    }
    if args.json {
        return print(&serde_json::to_string(&evaluation)?);
    }
    print(&text(&evaluation, annotations))
}

/// The scores as a table.
fn text(evaluation: &Evaluation, annotations: &Annotations) -> String {
    let blind = evaluation.blind.as_ref();
    let mut text = format!("{:<30} {:>9} {:>8}", evaluation.data, "questions", "score");
    if blind.is_some() {
        text.push_str(&format!(" {:>8} {:>8}", "blind", "looking"));
    }
    let scores = std::iter::once(evaluation.soft_score).chain(blind.map(|blind| blind.soft_score));
    let accuracies: Vec<&Accuracy> =
        std::iter::once(&evaluation.accuracy).chain(blind.map(|blind| &blind.accuracy)).collect();
    let lines = [
        row("soft score", Some(evaluation.n_questions), scores),
        row("upper bound", None, [evaluation.upper_bound]),
        table(&accuracies, annotations),
    ];
    lines.iter().for_each(|line| text.push_str(&format!("\n{line}")));
    if blind.is_some() {
        text.push_str(
            "\nblind: every question asked about another image of the split; looking: what the right image adds",
        );
    }
    text
}
