//! Measures how far a model's confidence can be trusted.

use serde::Serialize;

/// Compares the probability that a model gives its answers with the scores that they earn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// The expected calibration error (Guo et al. 2017, with ten bins) in percentage points: the mean over the
    /// questions of how far the confidence and the score of their bin are apart.
    pub ece: f64,
    /// Ten bins of equal width, by the confidence of the answers, from 0 to 100 percent.
    pub bins: Vec<CalibrationBin>,
}

/// The questions whose answers have a confidence in one range.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct CalibrationBin {
    /// How many questions there are.
    pub n_questions: usize,
    /// The mean probability of their answers, in percent.
    pub confidence: f64,
    /// Their mean soft score, in percent.
    pub score: f64,
}

/// The number of bins, all of equal width.
const N_BINS: usize = 10;

impl Calibration {
    /// Computes the calibration of answers from pairs of their probability and the score that they earn, both from 0 to
    /// 1.
    pub fn of(answers: impl IntoIterator<Item = (f32, f32)>) -> Calibration {
        let mut bins = vec![CalibrationBin::default(); N_BINS];
        for (confidence, score) in answers {
            let bin = &mut bins[((confidence * N_BINS as f32) as usize).min(N_BINS - 1)];
            bin.n_questions += 1;
            bin.confidence += f64::from(confidence);
            bin.score += f64::from(score);
        }
        let n_questions: usize = bins.iter().map(|bin| bin.n_questions).sum();
        let apart: f64 = bins.iter().map(|bin| (bin.confidence - bin.score).abs()).sum();
        for bin in &mut bins {
            let n = bin.n_questions.max(1) as f64;
            bin.confidence *= 100.0 / n;
            bin.score *= 100.0 / n;
        }
        Calibration { ece: 100.0 * apart / n_questions.max(1) as f64, bins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand: three answers at 0.95, two of them right, and one at 0.2 with a score of a third.
    #[test]
    fn confidence_is_compared_with_the_score() {
        let calibration = Calibration::of([(0.95, 1.0), (0.95, 0.0), (0.95, 1.0), (0.2, 1.0 / 3.0)]);
        let expected = (3.0 * (0.95 - 2.0 / 3.0) + (1.0 / 3.0 - 0.2)) / 4.0;
        assert!((calibration.ece - 100.0 * expected).abs() < 1e-4, "{calibration:?}");
        assert_eq!(
            calibration.bins.iter().map(|bin| bin.n_questions).collect::<Vec<_>>(),
            [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
        );
        assert!((calibration.bins[9].score - 200.0 / 3.0).abs() < 1e-4);
        // Both ends of the range are included.
        let ends = Calibration::of([(0.0, 0.0), (1.0, 1.0)]);
        assert_eq!((ends.ece, ends.bins[0].n_questions, ends.bins[9].n_questions), (0.0, 1, 1));
        assert_eq!(Calibration::of([]).ece, 0.0);
    }
}
