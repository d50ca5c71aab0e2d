use std::collections::BTreeMap;

use anyhow::Result;
use vqa_data::evaluator::{Accuracy, warn_of_accuracy};
use vqa_data::questions::{Annotation, Annotations, SourceConfig, Split, SplitConfig, read_results};

use crate::args::ScoreArgs;
use crate::terminal::print;

pub fn run(args: &ScoreArgs) -> Result<()> {
    let source = SourceConfig {
        q_jsons: vec![args.questions.clone()],
        a_jsons: vec![args.annotations.clone()],
        ..SourceConfig::default()
    };
    let split = Split::load(&SplitConfig::from(vec![source]))?;
    warn_of_accuracy(&args.annotations.display().to_string(), &split.annotations);
    let results = read_results(&args.results)?;
    let accuracy = Accuracy::of(&results, &split.annotations)
        .map_err(|error| anyhow::anyhow!("{}: {error}", args.results.display()))?;
    print(&if args.json { serde_json::to_string(&accuracy)? } else { table(&[&accuracy], &split.annotations) })
}

/// A table of official accuracies side by side, the most frequent types first; with two, also their difference.
pub fn table(accuracies: &[&Accuracy], annotations: &Annotations) -> String {
    let mut text =
        row("official accuracy", Some(annotations.len()), accuracies.iter().map(|accuracy| accuracy.overall));
    type TypeOf = for<'a> fn(&Annotation<'a>) -> &'a str;
    type Scores = fn(&Accuracy) -> &BTreeMap<String, f64>;
    let kinds: [(&str, TypeOf, Scores); 2] = [
        ("by answer type", |annotation| annotation.answer_type, |accuracy| &accuracy.per_answer_type),
        ("by question type", |annotation| annotation.question_type, |accuracy| &accuracy.per_question_type),
    ];
    for (title, type_of, scores) in kinds {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        annotations.iter().for_each(|annotation| *counts.entry(type_of(&annotation)).or_default() += 1);
        let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        text.push_str(&format!("\n{title}"));
        for (name, n) in counts {
            let values = accuracies.iter().filter_map(|accuracy| scores(accuracy).get(name).copied());
            text.push_str(&format!("\n{}", row(&format!("  {name}"), Some(n), values)));
        }
    }
    text
}

/// A row of the table: a name, a number of questions, and one score, or two and their difference.
pub fn row(name: &str, n: Option<usize>, values: impl IntoIterator<Item = f64>) -> String {
    let values: Vec<f64> = values.into_iter().collect();
    let n = n.map(|n| n.to_string()).unwrap_or_default();
    let mut row = format!("{name:<30} {n:>9}");
    values.iter().for_each(|value| row.push_str(&format!(" {value:>8.2}")));
    if let [seen, blind] = values[..] {
        row.push_str(&format!(" {:>+8.2}", seen - blind));
    }
    row
}
