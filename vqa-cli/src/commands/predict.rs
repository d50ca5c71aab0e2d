use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use vqa_data::files::{AtomicFile, try_file, write_atomic};
use vqa_infer::{RankedAnswers, SplitWithModel};

use crate::args::PredictArgs;
use crate::commands::answering;
use crate::process_group::ProcessGroup;
use crate::terminal::print;

/// A line of the file that `predict --top` writes.
#[derive(Debug, Serialize)]
struct Line<'a> {
    question_id: u64,
    /// Best first.
    answers: Vec<ScoredAnswer<'a>>,
}

/// An answer and its probability, as Hugging Face's visual-question-answering pipeline gives them.
#[derive(Debug, Serialize)]
pub struct ScoredAnswer<'a> {
    pub answer: &'a str,
    pub score: f32,
}

pub fn run(args: &PredictArgs, group: &ProcessGroup) -> Result<()> {
    if group.is_first() {
        try_file(&args.out)?;
    }
    let split = answering::open_together(&args.model.checkpoint, &args.model.split, group)?;
    let (n_questions, out) = (split.dataset().len(), args.out.display());
    if let Some(n_best) = args.top {
        let ranked = answering::rank_all(&split, n_best as usize)?;
        if group.is_first() {
            write_ranked(&args.out, &split, &ranked)?;
        }
        return print(&format!("wrote the best answers to {n_questions} questions, one line each, to {out}"));
    }
    answering::check_for_results(&split)?;
    let answers = answering::answer_all(&split)?.answers;
    if group.is_first() {
        write_atomic(&args.out, &serde_json::to_vec(&answers)?)?;
    }
    print(&format!("wrote {n_questions} answers to {out}"))
}

/// Writes one line for each question, in the order of the split.
fn write_ranked(path: &Path, split: &SplitWithModel, ranked: &RankedAnswers) -> Result<()> {
    let answers = split.ensemble().answers().answers();
    let file = AtomicFile::create(path)?;
    let cannot_write = vqa_data::Error::io("write", path);
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(file.path())?);
        for (i, question) in split.dataset().split().questions.iter().enumerate() {
            let best = ranked.of(i).iter();
            let best = best.map(|&(id, score)| ScoredAnswer { answer: &answers[id as usize], score });
            let line = Line { question_id: question.question_id, answers: best.collect() };
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    write().map_err(cannot_write)?;
    Ok(file.finish()?)
}
