//! What is shown of a question.

use std::path::PathBuf;

/// A question, its answer, and where the model looked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Explained {
    /// The question's id, which names its folder.
    pub question_id: u64,
    /// How many questions before it have the same id: two sources of a split may share ids. Above 0 its folder is
    /// `ID_2`, `ID_3` and so on.
    pub n_namesakes: usize,
    /// The question.
    pub question: String,
    /// "yes/no", "number" or "other", if there are annotations.
    pub answer_type: Option<String>,
    /// The first words of the question, from the annotations' list, if there are any.
    pub question_type: Option<String>,
    /// The model's answer.
    pub answer: String,
    /// The model's best answers with their probabilities, best first.
    pub best: Vec<(String, f32)>,
    /// The answer once the region that the model looked at most is hidden, and its probability. Nothing where nobody
    /// asked, or the image has no region more.
    pub without_top: Option<(String, f32)>,
    /// What the annotators answered, with how many did, most first; empty where there are no annotations.
    pub annotators: Vec<(String, usize)>,
    /// The soft score of the answer, 0 to 1, if somebody was asked.
    pub soft_score: Option<f32>,
    /// The picture.
    pub picture: PathBuf,
    /// The regions, x1 y1 x2 y2 in pixels.
    pub boxes: Vec<[f32; 4]>,
    /// The weight of each region.
    pub attention: Vec<f32>,
}

impl Explained {
    /// The name of its folder.
    pub fn folder(&self) -> String {
        match self.n_namesakes {
            0 => self.question_id.to_string(),
            n => format!("{}_{}", self.question_id, n + 1),
        }
    }
}
