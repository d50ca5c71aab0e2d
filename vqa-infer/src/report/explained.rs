//! What is shown of a question.

use std::path::PathBuf;

/// A question, its answer, and where the model looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The question's id, which names its folder.
    pub question_id: u64,
    /// The question.
    pub question: String,
    /// The model's answer.
    pub answer: String,
    /// The model's best answers with their probabilities, best first.
    pub best: Vec<(String, f32)>,
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
