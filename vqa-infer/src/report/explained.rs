//! What a report shows of one question.

use std::path::PathBuf;

/// A question, its answer, and where the model looked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExplainedQuestion {
    /// The question's id, which names its folder.
    pub question_id: u64,
    /// How many earlier questions have the same id, which sources of one split may share. If it is not 0, the folder is
    /// `ID_2`, `ID_3` and so on.
    pub n_earlier_of_id: usize,
    /// The question.
    pub question: String,
    /// "yes/no", "number" or "other", if there are annotations.
    pub answer_type: Option<String>,
    /// The question type, its first words, as the annotations give it, if there are any.
    pub question_type: Option<String>,
    /// The model's answer.
    pub answer: String,
    /// The model's best answers with their probabilities, best first.
    pub best: Vec<(String, f32)>,
    /// The answer when the most attended region is hidden, and its probability. `None` if this was not asked for, or
    /// the image has only one region.
    pub without_top: Option<(String, f32)>,
    /// The annotators' answers with how many gave each, most frequent first; empty without annotations.
    pub annotators: Vec<(String, usize)>,
    /// The soft score of the answer, 0 to 1, if there are annotations.
    pub soft_score: Option<f32>,
    /// The path of the picture.
    pub picture: PathBuf,
    /// The regions, x1 y1 x2 y2 in pixels.
    pub boxes: Vec<[f32; 4]>,
    /// The weight of each region.
    pub attention: Vec<f32>,
}

impl ExplainedQuestion {
    /// The name of the question's folder.
    pub fn folder(&self) -> String {
        match self.n_earlier_of_id {
            0 => self.question_id.to_string(),
            n => format!("{}_{}", self.question_id, n + 1),
        }
    }
}
