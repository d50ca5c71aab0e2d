use std::slice;

use anyhow::{Result, bail};
use vqa_data::evaluator::warn_of_accuracy;
use vqa_data::files::try_directory;
use vqa_infer::SplitWithModel;
use vqa_infer::report::{Choice, Report, Sample, Skipped, Verdict};

use crate::args::{OnlyArg, SampleArg, VisualizeArgs};
use crate::commands::answering;
use crate::terminal::{on_one_line, print, say};

/// The maximum number of left-out questions to list.
const N_NAMED: usize = 5;

pub fn run(args: &VisualizeArgs) -> Result<()> {
    if args.seed.is_some() && matches!(args.sample, SampleArg::First) {
        bail!("--seed fixes which questions --sample random draws: pass both, or neither");
    }
    try_directory(&args.out_dir)?;
    let split = answering::open(slice::from_ref(&args.checkpoint), &args.split)?;
    let choice = choice(args, &split);
    split.check_choice(&choice)?;
    let annotations = &split.dataset().split().annotations;
    let scored = !annotations.is_empty() && !args.no_scores;
    if scored {
        warn_of_accuracy(&args.split.data, annotations);
    }
    let answers = if scored || choice.needs_scores() { Some(answering::answer_all(&split)?) } else { None };
    let questions = split.choose(&choice, answers.as_ref())?;
    let scores = match &answers {
        Some(answers) if scored => Some(answering::scores(&split, answers)?),
        _ => None,
    };

    let data = &args.split.data;
    let checkpoint = split.ensemble().first().name();
    let notes = vec![notes(args, questions.len(), split.dataset().len(), &checkpoint)];
    // A split may have any name, but the directory must be inside `out_dir`.
    let name = format!("{checkpoint}_{data}_visualization").replace(['/', '\\'], "_");
    let directory = args.out_dir.join(name);
    let mut report =
        Report::new(directory, "Where the model looks", notes).style(args.style.into()).answered_by(split.identity());
    if let Some(scores) = scores {
        report = report.scores(scores);
    }
    answering::explain(&split, &questions, args.occlude.is_on(), &mut report)?;
    // If no question is left, `finish` returns an error instead.
    if !report.is_empty() {
        say_skipped(report.skipped());
    }
    let (n, n_drawn) = (report.len(), report.n_drawn());
    let page = report.finish()?;
    let kept = if n_drawn < n { format!(" ({} as they were)", n - n_drawn) } else { String::new() };
    print(&format!("drew {n} questions{kept}; open {}", page.display()))
}

/// Prints the questions left out, or the first few of them.
fn say_skipped(skipped: &[Skipped]) {
    for Skipped { question_id, problem, .. } in skipped.iter().take(N_NAMED) {
        say!("left out: question {question_id}: {}", on_one_line(problem));
    }
    if skipped.len() > N_NAMED {
        say!("left out: {} questions in all, which the page lists", skipped.len());
    }
}

/// The choice of questions that the arguments specify.
fn choice(args: &VisualizeArgs, split: &SplitWithModel) -> Choice {
    let in_batches = |n_batches: u64| split.batch_size().saturating_mul(n_batches as usize);
    let n = match (args.n, args.n_batches) {
        (Some(n), _) => Some(n as usize),
        (None, Some(n_batches)) => Some(in_batches(n_batches)),
        // All of the given ids.
        (None, None) if !args.question_ids.is_empty() => None,
        (None, None) => Some(in_batches(1)),
    };
    let seed = args.seed.unwrap_or(split.ensemble().first().seed());
    Choice {
        n,
        sample: match args.sample {
            SampleArg::First => Sample::First,
            SampleArg::Random => Sample::Random(seed),
        },
        only: args.only.map(|only| match only {
            OnlyArg::Right => Verdict::Right,
            OnlyArg::Wrong => Verdict::Wrong,
        }),
        types: args.types.clone(),
        question_ids: args.question_ids.clone(),
    }
}

/// The notes under the page's title.
fn notes(args: &VisualizeArgs, n_chosen: usize, n_all: usize, checkpoint: &str) -> String {
    let mut note = format!("{n_chosen} of {n_all} questions of split {}", args.split.data);
    let how = match (args.sample, args.question_ids.is_empty()) {
        (SampleArg::Random, _) => ", drawn at random",
        (SampleArg::First, true) => ", the first ones",
        (SampleArg::First, false) => ", chosen by their ids",
    };
    if n_chosen < n_all {
        note.push_str(how);
    }
    if let Some(only) = args.only {
        note.push_str(match only {
            OnlyArg::Right => " of those answered right",
            OnlyArg::Wrong => " of those answered wrong",
        });
    }
    if !args.types.is_empty() {
        note.push_str(&format!(" of type {}", args.types.join(", ")));
    }
    note + &format!("; checkpoint {checkpoint}")
}
