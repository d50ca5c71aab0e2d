use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;
use vqa_data::evaluator::{Accuracy, warn_of_accuracy};
use vqa_data::files::{try_file, write_atomic};
use vqa_data::message::counted;
use vqa_data::questions::Annotations;
use vqa_infer::{Answers, Calibration, Checkpoint, Occlusion, OcclusionMeans, OcclusionOptions, SplitWithModel};

use crate::args::EvaluateArgs;
use crate::commands::answering;
use crate::commands::score::{row, table};
use crate::process_group::ProcessGroup;
use crate::terminal::print;

/// The output of `evaluate --json`. Scores are percentages.
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
    pub calibration: Calibration,
    /// The scores of each checkpoint alone, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// With `--occlude`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occlusion: Option<Occlusion>,
}

/// The scores of one checkpoint of several.
#[derive(Debug, Serialize)]
pub struct Member {
    pub checkpoint: PathBuf,
    pub soft_score: f64,
    /// The official accuracy.
    pub accuracy: f64,
}

/// The scores of the same model with every question asked about another image.
#[derive(Debug, Serialize)]
pub struct Blind {
    /// The seed of the swap of images.
    pub seed: u64,
    pub soft_score: f64,
    pub accuracy: Accuracy,
}

pub fn run(args: &EvaluateArgs, group: &ProcessGroup) -> Result<()> {
    let results = args.results.as_ref().filter(|_| group.is_first());
    if let Some(path) = results {
        try_file(path)?;
    }
    let split = answering::open_together(&args.model.checkpoint, &args.model.split, group)?;
    let annotations = &split.dataset().split().annotations;
    if annotations.is_empty() {
        bail!("{}: no annotations to score against: use `vqa predict`", split.place());
    }
    if args.results.is_some() {
        answering::check_for_results(&split)?;
    }
    if let Some(n_regions) = args.occlude {
        split.check_occlusion(n_regions as usize)?;
    }
    warn_of_accuracy(&args.model.split.data, annotations);
    let answered = answering::answer_all(&split)?;
    // Written before the other passes, which may fail or be interrupted.
    if let Some(path) = results {
        write_atomic(path, &serde_json::to_vec(&answered.answers)?)?;
    }
    let blind = match args.blind {
        true => {
            let answered = answering::answer_blind(&split)?;
            let accuracy = answered.accuracy(annotations);
            Some(Blind { seed: split.ensemble().first().seed(), soft_score: answered.soft_score, accuracy })
        }
        false => None,
    };
    let members = if args.model.checkpoint.len() > 1 { members(&split, annotations)? } else { Vec::new() };
    let occlude = |n_regions| {
        let seed = split.ensemble().first().seed();
        answering::occlude(
            &split,
            OcclusionOptions { n_regions: n_regions as usize, n_draws: args.draws as usize, seed },
        )
    };
    let occlusion = args.occlude.map(occlude).transpose()?;
    let evaluation = Evaluation {
        data: args.model.split.data.clone(),
        n_questions: answered.answers.len(),
        soft_score: answered.soft_score,
        upper_bound: answered.upper_bound,
        accuracy: answered.accuracy(annotations),
        blind,
        calibration: answered.calibration(),
        members,
        occlusion,
    };
    if args.json {
        return print(&serde_json::to_string(&evaluation)?);
    }
    print(&text(&evaluation, annotations))
}

fn members(split: &SplitWithModel, annotations: &Annotations) -> Result<Vec<Member>> {
    let of_each = answering::answer_by_each(split)?;
    let member = |(checkpoint, answered): (&Checkpoint, Answers)| Member {
        checkpoint: checkpoint.path().to_owned(),
        soft_score: answered.soft_score,
        accuracy: answered.accuracy(annotations).overall,
    };
    Ok(split.ensemble().members().zip(of_each).map(member).collect())
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
    text.push_str(&members_text(&evaluation.members));
    text.push_str(&calibration_text(&evaluation.calibration));
    if let Some(occlusion) = &evaluation.occlusion {
        text.push_str(&occlusion_text(occlusion));
    }
    text
}

/// The scores of each checkpoint alone, with mean and standard deviation, as text.
fn members_text(members: &[Member]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let n = members.len() as f64;
    let spread = |score: fn(&Member) -> f64| {
        let mean = members.iter().map(score).sum::<f64>() / n;
        // The sample variance, with n - 1.
        let variance = members.iter().map(|member| (score(member) - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance.sqrt())
    };
    let [(soft, soft_spread), (accuracy, accuracy_spread)] =
        [spread(|member| member.soft_score), spread(|member| member.accuracy)];
    let line = |name: &str, soft: String, accuracy: String| format!("\n{name:<40} {soft:>12} {accuracy:>18}");
    let mut text = line("\neach checkpoint alone", "soft score".to_owned(), "official accuracy".to_owned());
    for member in members {
        let (soft, accuracy) = (format!("{:.2}", member.soft_score), format!("{:.2}", member.accuracy));
        text.push_str(&line(&format!("  {}", member.checkpoint.display()), soft, accuracy));
    }
    let (soft, accuracy) = (format!("{soft:.2} ± {soft_spread:.2}"), format!("{accuracy:.2} ± {accuracy_spread:.2}"));
    text.push_str(&line("  mean and standard deviation", soft, accuracy));
    text
}

/// The calibration as a table.
fn calibration_text(calibration: &Calibration) -> String {
    let mut text = format!(
        "\n\n{:<30} {:>9} {:>10} {:>10}",
        format!("calibration: error {:.2}", calibration.ece),
        "questions",
        "confidence",
        "soft score"
    );
    let width = 100 / calibration.bins.len();
    for (i, bin) in calibration.bins.iter().enumerate().filter(|(_, bin)| bin.n_questions > 0) {
        let range = format!("  {} to {} %", width * i, width * (i + 1));
        text.push_str(&format!("\n{range:<30} {:>9} {:>10.2} {:>10.2}", bin.n_questions, bin.confidence, bin.score));
    }
    text
}

/// A table of how the answers change with some regions hidden.
fn occlusion_text(occlusion: &Occlusion) -> String {
    let Occlusion { options, n_left_out, .. } = occlusion;
    let mut text = format!(
        "\n\n{:<30} {:>9} {:>21} {:>21}\n{:<30} {:>9} {:>12} {:>8} {:>12} {:>8}",
        format!("without {}", counted(options.n_regions, "region")),
        "",
        "other answer, %",
        "probability falls by",
        "",
        "questions",
        "attended",
        "chance",
        "attended",
        "chance"
    );
    let mut line = |name: &str, of: &OcclusionMeans| {
        let OcclusionMeans { n_questions, attended, chance } = of;
        text.push_str(&format!(
            "\n{name:<30} {n_questions:>9} {:>12.2} {:>8.2} {:>12.2} {:>8.2}",
            attended.changed, chance.changed, attended.fall, chance.fall
        ));
    };
    line("all", &occlusion.overall);
    for types in [&occlusion.per_answer_type, &occlusion.per_question_type] {
        let mut types: Vec<_> = types.iter().collect();
        types.sort_by_key(|(_, of)| std::cmp::Reverse(of.n_questions));
        types.into_iter().for_each(|(name, of)| line(&format!("  {name}"), of));
    }
    text.push_str(&format!(
        "\nattended: those that the model looked at most; chance: others at random, {}; in percentage points",
        counted(options.n_draws, "draw")
    ));
    if *n_left_out > 0 {
        text.push_str(&format!(
            "; left out, because hiding the regions would leave none: {}",
            counted(*n_left_out, "question")
        ));
    }
    text
}
