use anyhow::Result;
use vqa_data::{Accuracy, SourceConfig, Split, SplitConfig, read_results};

use crate::args::ScoreArgs;
use crate::terminal::print;

pub fn run(args: &ScoreArgs) -> Result<()> {
    let source = SourceConfig {
        q_jsons: vec![args.questions.clone()],
        a_jsons: vec![args.annotations.clone()],
        ..SourceConfig::default()
    };
    let split = Split::load(&SplitConfig::from(vec![source]))?;
    let results = read_results(&args.results)?;
    let accuracy = Accuracy::of(&results, &split.annotations)
        .map_err(|error| anyhow::anyhow!("{}: {error}", args.results.display()))?;
    print(&if args.json { serde_json::to_string(&accuracy)? } else { table(&accuracy) })
}

/// The official accuracy as lines of text.
pub fn table(accuracy: &Accuracy) -> String {
    let mut text = format!("official accuracy {:>20.2}", accuracy.overall);
    for (title, figures) in
        [("by answer type", &accuracy.per_answer_type), ("by question type", &accuracy.per_question_type)]
    {
        text.push_str(&format!("\n{title}"));
        for (name, value) in figures {
            text.push_str(&format!("\n  {name:<28} {value:>7.2}"));
        }
    }
    text
}
