//! Soft targets: the scores of candidate answers.

/// The soft targets of some questions as compressed rows: question i has the candidates `answers[r]` with
/// the scores `scores[r]`, r being `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftTargets {
    offsets: Vec<usize>,
    answers: Vec<u32>,
    scores: Vec<f32>,
}

impl Default for SoftTargets {
    fn default() -> SoftTargets {
        SoftTargets { offsets: vec![0], answers: Vec::new(), scores: Vec::new() }
    }
}

impl SoftTargets {
    /// Appends a question with its (candidate, score) pairs.
    pub fn push(&mut self, target: impl IntoIterator<Item = (u32, f32)>) {
        for (answer, score) in target {
            self.answers.push(answer);
            self.scores.push(score);
        }
        self.offsets.push(self.answers.len());
    }

    /// Appends the questions of `others`.
    pub(crate) fn append(&mut self, others: &SoftTargets) {
        let offset = self.answers.len();
        self.offsets.extend(others.offsets[1..].iter().map(|end| end + offset));
        self.answers.extend_from_slice(&others.answers);
        self.scores.extend_from_slice(&others.scores);
    }

    /// Appends questions without candidates until there are `n`.
    pub(crate) fn resize(&mut self, n: usize) {
        self.offsets.resize(n + 1, self.answers.len());
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The candidates of question `i` and their scores.
    pub fn of(&self, i: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = self.offsets[i]..self.offsets[i + 1];
        self.answers[range.clone()].iter().copied().zip(self.scores[range].iter().copied())
    }

    /// The score that answering question `i` with `answer` earns, 0 to 1.
    pub fn score(&self, i: usize, answer: u32) -> f32 {
        self.of(i).find_map(|(candidate, score)| (candidate == answer).then_some(score)).unwrap_or(0.0)
    }

    /// The highest score that question `i` allows, 0 to 1.
    pub fn best(&self, i: usize) -> f32 {
        self.of(i).map(|(_, score)| score).fold(0.0, f32::max)
    }

    /// The sum over all questions of the score that `predicted` earns, with one candidate per question.
    pub fn total_score(&self, predicted: &[i64]) -> f64 {
        predicted.iter().enumerate().map(|(i, &answer)| f64::from(self.score(i, answer as u32))).sum()
    }

    /// The sum over all questions of the highest score they allow.
    pub fn total_best(&self) -> f64 {
        (0..self.len()).map(|i| f64::from(self.best(i))).sum()
    }
}
