//! Shows the progress of a training run.

use std::time::Duration;

use indicatif::HumanDuration;
use vqa_train::Event;
use vqa_train::metrics::StepMetrics;

use crate::progress::ProgressBar;
use crate::terminal::say;

/// Shows the events of a run: a bar for each epoch and each validation, and a line for each finished epoch.
pub fn show(n_epochs: u64) -> impl FnMut(Event) {
    let mut bar: Option<(bool, ProgressBar)> = None;
    let mut recent = Recent::default();
    let mut of_last_epoch = None;
    let mut features = None;
    move |event| match event {
        Event::Features { n, of } => {
            let progress =
                features.get_or_insert_with(|| ProgressBar::new("features to the device", "images", of as u64));
            progress.set_done(n as u64, Vec::new);
            if n == of {
                features = None;
            }
        }
        Event::Step { metrics, batch, n_batches } => {
            if bar.as_ref().is_none_or(|(training, _)| !training) {
                bar = Some((
                    true,
                    ProgressBar::with_details(format!("epoch {}/{n_epochs}", metrics.epoch), n_batches as u64),
                ));
            }
            recent.add(metrics);
            let left = recent.step * (n_batches - batch) as u32;
            let epoch = of_last_epoch.unwrap_or(recent.step * n_batches as u32);
            let in_all = left + epoch * n_epochs.saturating_sub(metrics.epoch) as u32;
            let (_, progress) = bar.as_ref().expect("made above");
            progress.set_done(batch as u64, || {
                let all_reduce = match metrics.all_reduce_ms {
                    Some(_) => format!(", all-reduce {:.0} %", recent.all_reduce_share),
                    None => String::new(),
                };
                vec![
                    format!("loss {:.3}, score {:.1}", recent.loss, recent.score),
                    format!("{:#} left, {:#} in all", HumanDuration(left), HumanDuration(in_all)),
                    format!(
                        "{:.0} questions/s, data {:.0} %{all_reduce}",
                        recent.questions / recent.step.as_secs_f64().max(1e-9),
                        recent.data_share
                    ),
                    format!("step {}", metrics.step),
                ]
            });
        }
        Event::Validation { batch, n_batches } => {
            if bar.as_ref().is_none_or(|(training, _)| *training) {
                bar = Some((false, ProgressBar::new("validate", "batches", n_batches as u64)));
            }
            bar.as_ref().expect("made above").1.set_done(batch as u64, Vec::new);
        }
        Event::Epoch(metrics) => {
            of_last_epoch = Some(Duration::from_secs_f64(metrics.seconds));
            let mut line = format!(
                "epoch {:2} | train_loss: {:5.2} train_score: {:5.2}",
                metrics.epoch, metrics.train_loss, metrics.train_score
            );
            if let (Some(score), Some(upper_bound)) = (metrics.val_score, metrics.val_upper_bound) {
                line.push_str(&format!(" | val_score: {score:5.2} ({upper_bound:5.2})"));
            }
            line.push_str(&format!(" | {:.1} s", metrics.seconds));
            bar = None;
            say!("{line}");
        }
    }
}

/// Running means over the last few dozen steps, as single steps vary.
#[derive(Default)]
struct Recent {
    n: u32,
    loss: f64,
    score: f64,
    questions: f64,
    data_share: f64,
    all_reduce_share: f64,
    step: Duration,
}

impl Recent {
    fn add(&mut self, step: &StepMetrics) {
        self.n += 1;
        let weight = (1.0 / f64::from(self.n)).max(0.03);
        let ms = step.ms();
        let seconds = self.step.as_secs_f64() * (1.0 - weight) + weight * ms / 1000.0;
        self.step = Duration::from_secs_f64(seconds.max(0.0));
        for (mean, value) in [
            (&mut self.loss, step.loss),
            (&mut self.score, step.score),
            (&mut self.questions, step.samples_per_s * ms / 1000.0),
            (&mut self.data_share, step.data_share()),
            (&mut self.all_reduce_share, step.all_reduce_share()),
        ] {
            *mean += weight * (value - *mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_steps_are_averaged() {
        let step = |loss, samples_per_s, data_ms| StepMetrics {
            epoch: 1,
            step: 1,
            loss,
            lr: 0.1,
            score: 50.0,
            samples_per_s,
            data_ms,
            forward_ms: 150.0,
            backward_ms: 200.0 - data_ms,
            all_reduce_ms: None,
        };
        let mut recent = Recent::default();
        recent.add(&step(4.0, 100.0, 0.0));
        recent.add(&step(2.0, 300.0, 175.0));
        let rate = recent.questions / recent.step.as_secs_f64();
        assert_eq!((recent.loss, recent.score, recent.data_share, rate), (3.0, 50.0, 25.0, 200.0));
        (0..500).for_each(|_| recent.add(&step(1.0, 100.0, 0.0)));
        assert!((recent.loss - 1.0).abs() < 1e-3 && recent.data_share < 1e-3);
    }
}
