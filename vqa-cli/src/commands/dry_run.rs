//! Measures what a training run would take and checks that it works, by reading everything and trying some steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::terminal::say;
use vqa_data::message::counted;

use anyhow::Result;
use indicatif::{DecimalBytes, HumanDuration};
use tch::Device;
use vqa_data::batches::Loader;
use vqa_model::feed::Precision;
use vqa_train::{Rehearsal, TrainConfig, Trainer};

use crate::commands::watch::show;
use crate::config::Config;

/// Steps are tried for about this long, for a reliable mean.
const ENOUGH: Duration = Duration::from_secs(10);

/// Rehearses a run of which this many epochs are done, and reports what the rest would take.
pub fn report(config: &Config, trainer: &Trainer, n_done: u64) -> Result<String> {
    let n_epochs = trainer.config.n_epochs.saturating_sub(n_done);
    let n_vals = n_validations(n_done, trainer.config);
    say!("trying some steps");
    let (seen, peak) = with_peak(|| trainer.rehearse(ENOUGH, &mut show(n_epochs)));
    let seen = seen?;
    let precision = precision(trainer, &seen, n_epochs)?;
    let mut lines = vec![
        ("steps", steps(config, trainer, n_epochs)),
        ("parameters", parameters(trainer)),
        ("memory", memory(trainer, &seen, peak)),
        ("features", features(config)),
        ("disk", disk(trainer, &seen)),
        ("time", time(trainer, &seen, n_epochs, n_vals)),
        ("loss", format!("{:.3} after {} steps", seen.loss, seen.n_steps + 1)),
    ];
    lines.extend(precision.map(|precision| ("precision", precision)));
    for (name, loader) in [("val", trainer.val), ("train", Some(trainer.train))] {
        lines.splice(0..0, loader.map(|loader| (name, split(loader))));
    }
    let mut text: String = lines.iter().map(|(name, line)| format!("{name:<12} {line}\n")).collect();
    text.push_str(&format!("nothing was written to {}", config.run.out_dir.display()));
    Ok(text)
}

fn split(loader: &Loader) -> String {
    let dataset = loader.dataset();
    let seen = dataset.encoded().report(dataset.split());
    let bound = seen.upper_bound.map(|bound| format!(", upper bound {bound:.2}")).unwrap_or_default();
    format!(
        "{} questions about {} images, {} without a candidate answer{bound}",
        seen.n_questions, seen.n_images, seen.n_without_answer
    )
}

fn steps(config: &Config, trainer: &Trainer, n_epochs: u64) -> String {
    let n = trainer.train.n_batches() as u64;
    let epochs = counted(n_epochs as usize, "epoch");
    format!("{n} per epoch, of {} questions each; {} in {epochs}", config.run.train.batch_size, n * n_epochs)
}

/// The number of parameters in each part of the model.
fn parameters(trainer: &Trainer) -> String {
    let count = |n: usize| if n < 100_000 { n.to_string() } else { format!("{:.2} M", n as f64 / 1e6) };
    let mut parts: BTreeMap<String, usize> = BTreeMap::new();
    for (name, variable) in trainer.vs.variables() {
        let part = name.split('.').next().unwrap_or_default().to_owned();
        *parts.entry(part).or_default() += variable.numel();
    }
    let mut sorted: Vec<(&String, &usize)> = parts.iter().collect();
    sorted.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let parts_text: Vec<String> = sorted.iter().map(|&(name, &n)| format!("{name} {}", count(n))).collect();
    format!("{}: {}", count(parts.values().sum()), parts_text.join(", "))
}

/// The size of the parameters in bytes.
fn parameter_bytes(trainer: &Trainer) -> usize {
    trainer.vs.variables().values().map(|variable| variable.numel() * variable.kind().elt_size_in_bytes()).sum()
}

fn memory(trainer: &Trainer, seen: &Rehearsal, peak: Option<u64>) -> String {
    let of_parameters = parameter_bytes(trainer);
    let n_loaders = 1 + usize::from(trainer.val.is_some());
    // The batches that the loaders hold, and the one on the device.
    let n_batches = n_loaders * (trainer.train.options().prefetch + 2) + 1;
    let peak = peak.map(|bytes| format!("; peak {} in these steps", DecimalBytes(bytes))).unwrap_or_default();
    format!(
        "{} parameters, {} gradients, {} optimiser, {} batches ({n_batches} of {}), and what the layers keep \
         for the backward pass{peak}",
        DecimalBytes(of_parameters as u64),
        DecimalBytes(of_parameters as u64),
        DecimalBytes(seen.optimizer_bytes as u64),
        DecimalBytes((n_batches * seen.batch_bytes) as u64),
        DecimalBytes(seen.batch_bytes as u64),
    )
}

fn features(config: &Config) -> String {
    let splits = ["train", "val"].into_iter().filter_map(|name| config.run.data.get(name));
    let paths: BTreeSet<_> = splits.flat_map(|split| &split.composition).filter_map(|s| s.features.as_ref()).collect();
    let files: Vec<String> = paths
        .iter()
        .map(|path| {
            let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
            format!("{} {}", path.file_name().unwrap_or_default().to_string_lossy(), DecimalBytes(bytes))
        })
        .collect();
    format!("{} on disk, read as needed", files.join(", "))
}

fn disk(trainer: &Trainer, seen: &Rehearsal) -> String {
    let (model, state) = (parameter_bytes(trainer) as u64, seen.optimizer_bytes as u64);
    format!("{} per checkpoint, {} for state/", DecimalBytes(model), DecimalBytes(model + state))
}

/// The number of validations that are left after the first `n_done` epochs.
fn n_validations(n_done: u64, config: &TrainConfig) -> u64 {
    (config.n_epochs / config.val_freq).saturating_sub(n_done / config.val_freq)
}

fn time(trainer: &Trainer, seen: &Rehearsal, n_epochs: u64, n_vals: u64) -> String {
    let val = trainer.val.zip(seen.val_batch).map(|(val, of_batch)| of_batch * val.n_batches() as u32);
    let train = seen.step * trainer.train.n_batches() as u32;
    let in_all = train * n_epochs as u32 + val.unwrap_or_default() * n_vals as u32;
    let val = val.map(|val| format!(" and {} validation", HumanDuration(val))).unwrap_or_default();
    let rate = trainer.train.options().batch_size.min(trainer.train.dataset().len()) as f64 / seen.step.as_secs_f64();
    format!(
        "{:.3} s a step ({rate:.0} questions/s, data {:.0} %; the first took {:.2} s): {} training{val} an \
         epoch, {} in all",
        seen.step.as_secs_f64(),
        100.0 * seen.data.as_secs_f64() / seen.step.as_secs_f64(),
        seen.first_step.as_secs_f64(),
        HumanDuration(train),
        HumanDuration(in_all)
    )
}

/// How a bfloat16 step compares with one in float32 on a CPU, where it may be slower; `None` for a GPU, where it is
/// not.
fn precision(trainer: &Trainer, seen: &Rehearsal, n_epochs: u64) -> Result<Option<String>> {
    if trainer.config.precision != Precision::Bf16 || trainer.vs.device() != Device::Cpu {
        return Ok(None);
    }
    let fp32 = TrainConfig { precision: Precision::Fp32, ..trainer.config.clone() };
    let trainer = Trainer { config: &fp32, val: None, ..*trainer };
    let in_fp32 = trainer.rehearse(ENOUGH, &mut show(n_epochs))?.step;
    Ok(Some(format!(
        "a step in bf16 takes {:.2} times as long as in fp32 ({:.3} s)",
        seen.step.as_secs_f64() / in_fp32.as_secs_f64(),
        in_fp32.as_secs_f64()
    )))
}

/// Runs `work`, and returns the peak memory of this process meanwhile, sampled and without mapped files; `None` if the
/// system does not report it.
fn with_peak<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    /// Linux reports it in kB.
    fn own_memory() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(own_memory().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, Some(peak.load(Ordering::Relaxed)).filter(|&peak| peak > 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validations_are_counted_from_the_first_epoch() {
        let left = |n_done, n_epochs, val_freq| {
            n_validations(n_done, &TrainConfig { n_epochs, val_freq, ..TrainConfig::default() })
        };
        assert_eq!([left(0, 7, 3), left(2, 7, 3), left(3, 7, 3), left(5, 7, 3), left(6, 7, 3)], [2, 2, 1, 1, 0]);
        assert_eq!([left(4, 6, 1), left(9, 6, 2)], [2, 0]);
    }
}
