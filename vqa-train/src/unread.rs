//! Losses and scores that the device may not have come to yet.
//!
//! A GPU works behind the program, and reading a number waits until it has caught up. So the figures of steps are kept as
//! tensors, and read together.

use std::time::Instant;

use tch::{Kind, Tensor};

use crate::metrics::Sums;
use crate::run_dir::Progress;

/// A step whose loss and score are unread.
pub(crate) struct Step {
    /// All but loss and score.
    pub(crate) sums: Sums,
    /// The passes through the parts of the batch.
    pub(crate) passes: Vec<Pass>,
}

/// A pass forward and backward.
pub(crate) struct Pass {
    /// Its share in the mean loss of the batch.
    pub(crate) share: f64,
    /// A scalar, the mean loss.
    pub(crate) loss: Tensor,
    /// A scalar, the sum of scores.
    pub(crate) score: Tensor,
    /// The first few questions.
    pub(crate) question_ids: Vec<u64>,
}

/// A step that was read.
#[derive(Debug)]
pub(crate) struct Read {
    /// Where the run stands after it.
    pub(crate) at: Progress,
    /// Its learning rate.
    pub(crate) lr: f64,
    pub(crate) sums: Sums,
}

/// A pass whose loss is NaN or infinite.
#[derive(Debug)]
pub(crate) struct NotFinite {
    pub(crate) loss: f64,
    /// Where the run stands after its step.
    pub(crate) at: Progress,
    pub(crate) question_ids: Vec<u64>,
}

/// The steps that are unread, in order.
#[derive(Default)]
pub(crate) struct Unread(Vec<(Progress, f64, Step)>);

impl Unread {
    /// Adds a step, after which the run stands at `at`.
    pub(crate) fn push(&mut self, at: Progress, lr: f64, step: Step) {
        self.0.push((at, lr, step));
    }

    /// Waits for the steps, and takes them out. How long each took on a GPU is unknown: all are given the mean.
    ///
    /// # Errors
    ///
    /// The first pass whose loss is NaN or infinite.
    pub(crate) fn read(&mut self) -> Result<Vec<Read>, NotFinite> {
        let steps = std::mem::take(&mut self.0);
        let figures: Vec<Tensor> = steps
            .iter()
            .flat_map(|(.., step)| &step.passes)
            .flat_map(|pass| [pass.loss.to_kind(Kind::Double), pass.score.to_kind(Kind::Double)])
            .collect();
        if figures.is_empty() {
            return Ok(Vec::new());
        }
        let tic = Instant::now();
        let figures = Vec::<f64>::try_from(Tensor::stack(&figures, 0)).expect("a flat tensor of float64");
        let mut all = Sums { backward: tic.elapsed(), ..Sums::default() };
        let mut figures = figures.chunks_exact(2);
        let mut read = Vec::with_capacity(steps.len());
        for (at, lr, Step { mut sums, passes }) in steps {
            let mut mean_loss = 0.0;
            for Pass { share, question_ids, .. } in passes {
                let Some(&[loss, score]) = figures.next() else { panic!("two figures for each pass") };
                if !loss.is_finite() {
                    return Err(NotFinite { loss, at, question_ids });
                }
                mean_loss += share * loss;
                sums.score += score;
            }
            sums.loss = mean_loss * sums.n_questions as f64;
            all.add(sums);
            read.push(Read { at, lr, sums });
        }
        let n = read.len() as u32;
        for Read { sums, .. } in &mut read {
            (sums.data, sums.forward, sums.backward) = (all.data / n, all.forward / n, all.backward / n);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(losses: &[f32]) -> Step {
        let sums = Sums { n_steps: 1, n_questions: 10, forward: Duration::from_millis(2), ..Sums::default() };
        let share = 1.0 / losses.len() as f64;
        let pass = |&loss: &f32| Pass {
            share,
            loss: Tensor::from(loss),
            score: Tensor::from(1.5f64),
            question_ids: vec![loss as u64],
        };
        Step { sums, passes: losses.iter().map(pass).collect() }
    }

    fn at(step: u64) -> Progress {
        Progress { epoch: 2, batch: step, step }
    }

    #[test]
    fn steps_are_read_in_order_and_once() {
        let mut unread = Unread::default();
        assert!(unread.read().unwrap().is_empty());
        unread.push(at(1), 0.1, step(&[4.0]));
        unread.push(at(2), 0.2, step(&[1.0, 2.0]));
        let read = unread.read().unwrap();
        let figures: Vec<_> = read.iter().map(|read| (read.at, read.lr, read.sums.loss, read.sums.score)).collect();
        assert_eq!(figures, [(at(1), 0.1, 40.0, 1.5), (at(2), 0.2, 15.0, 3.0)]);
        assert!(read.iter().all(|read| read.sums.forward == Duration::from_millis(2)));
        assert!(unread.read().unwrap().is_empty());
    }

    #[test]
    fn the_first_pass_that_diverged_is_found() {
        let mut unread = Unread::default();
        for (i, losses) in [&[1.0, 2.0][..], &[3.0, f32::INFINITY], &[f32::NAN, f32::NAN]].into_iter().enumerate() {
            unread.push(at(i as u64), 0.1, step(losses));
        }
        let NotFinite { loss, at: found, question_ids } = unread.read().unwrap_err();
        assert_eq!((loss, found, question_ids), (f64::INFINITY, at(1), vec![u64::MAX]));
    }
}
