//! `[train]` in a config file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tch::Kind;
use vqa_data::batches::Sampler;
use vqa_data::config::{MAX_BATCH_SIZE, check_range};
use vqa_model::feed::{FeaturesOnDevice, Precision};

/// More passes than any run could complete.
const MAX_EPOCHS: u64 = 1_000_000;

/// More seconds than anybody would wait, and few enough for libtorch, which counts smaller units in 64 bits.
const MAX_TIMEOUT: u64 = 1_000_000_000;

/// Factors outside this range are 0 or infinite in float32, or soon make something else so.
const SMALLEST: f64 = 1e-30;
const LARGEST: f64 = 1e30;

/// With a larger decay, a step would move the average by less than float32 can represent.
const MAX_EMA_DECAY: f64 = 0.999_999;

/// `[train]` in a config file. The defaults are the article's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the training questions.
    pub n_epochs: u64,
    /// Questions in a batch.
    pub batch_size: usize,
    /// Epochs from one validation to the next.
    pub val_freq: u64,
    /// Validations without a better score after which training stops; 0: it never stops early.
    pub patience: u64,
    /// Steps between saves of the state, so that `--resume` can continue within an epoch; 0: it is saved only at the
    /// end of each epoch.
    pub checkpoint_every: u64,
    /// How many of the latest checkpoints are kept; 0: all.
    pub keep_last: u64,
    /// Whether the checkpoint of the best epoch is kept in addition.
    pub keep_best: bool,
    /// Number format of the arithmetic.
    pub precision: Precision,
    /// Parts that a batch is split into. Their gradients add up to the batch's, with a fraction of the memory.
    pub accumulate: usize,
    /// The decay of the moving average of the weights: the share that it keeps at each step (less in the first steps,
    /// whose weights would otherwise count for too long); 0: there is no average. If there is one, it is what is
    /// validated and checkpointed.
    pub ema_decay: f64,
    /// Order of the training questions.
    pub sampler: Sampler,
    /// Whether the features of all images are copied to the device once, rather than batch by batch.
    pub features_on_device: FeaturesOnDevice,
    /// Number format in which several processes sum their gradients.
    pub all_reduce: AllReduce,
    /// Seconds that a process waits for the others before it fails.
    pub collective_timeout: u64,
    /// Steps between step lines in `metrics.jsonl`.
    pub log_every: u64,
    /// Whether gradients are clipped.
    pub clip_grad: bool,
    /// The largest norm of all gradients combined that clipping allows.
    pub max_grad_norm: f64,
    /// Steps over which the learning rate rises to its full value.
    pub warmup_steps: u64,
    /// Share of the full learning rate at step 0 of the warm-up.
    pub warmup_factor: f64,
    /// Steps at which the learning rate is multiplied by `lr_ratio`.
    pub lr_steps: Vec<u64>,
    /// See `lr_steps`.
    pub lr_ratio: f64,
    /// The optimiser.
    pub optim: AdamaxConfig,
}

/// Number format in which processes sum their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllReduce {
    /// float32.
    #[default]
    Fp32,
    /// bfloat16: half the bytes, with 8 bits of precision.
    Bf16,
}

impl AllReduce {
    /// Returns libtorch's type for the values that are sent.
    pub fn kind(self) -> Kind {
        match self {
            AllReduce::Fp32 => Kind::Float,
            AllReduce::Bf16 => Kind::BFloat16,
        }
    }
}

/// `[train.optim]`: Adamax, with PyTorch's names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamaxConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the running mean and of the running maximum of the gradient.
    pub betas: [f64; 2],
    /// Keeps the divisor from being 0.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Weight decays of particular parameters, given by prefixes of their names in a checkpoint, such as `w_emb` or
    /// `classifier.main.3`. If several prefixes match, the longest applies.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weight_decay_of: BTreeMap<String, f64>,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            n_epochs: 13,
            batch_size: 512,
            val_freq: 1,
            patience: 0,
            checkpoint_every: 0,
            keep_last: 0,
            keep_best: true,
            precision: Precision::default(),
            accumulate: 1,
            ema_decay: 0.0,
            sampler: Sampler::default(),
            features_on_device: FeaturesOnDevice::default(),
            all_reduce: AllReduce::default(),
            collective_timeout: 60,
            log_every: 50,
            clip_grad: true,
            max_grad_norm: 0.25,
            warmup_steps: 0,
            warmup_factor: 0.1,
            lr_steps: Vec::new(),
            lr_ratio: 0.1,
            optim: AdamaxConfig::default(),
        }
    }
}

impl Default for AdamaxConfig {
    fn default() -> AdamaxConfig {
        AdamaxConfig { lr: 0.002, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, weight_decay_of: BTreeMap::new() }
    }
}

/// Whether `beginning` is a parameter's name, or a prefix of it that ends before a dot.
fn begins_with(name: &str, beginning: &str) -> bool {
    name.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl AdamaxConfig {
    /// Returns the weight decay of a parameter.
    pub fn weight_decay_of(&self, name: &str) -> f64 {
        let groups = self.weight_decay_of.iter().filter(|(beginning, _)| begins_with(name, beginning));
        groups.max_by_key(|(beginning, _)| beginning.len()).map_or(self.weight_decay, |(_, &weight_decay)| weight_decay)
    }

    /// Checks `weight_decay_of` against the names of a model's parameters.
    ///
    /// # Errors
    ///
    /// When a key matches no parameter; the message names it, and the parts that the model has.
    pub fn check_names(&self, names: &[String]) -> Result<(), String> {
        let fits_none = |beginning: &&String| !names.iter().any(|name| begins_with(name, beginning));
        let Some(unknown) = self.weight_decay_of.keys().find(fits_none) else { return Ok(()) };
        let parts: BTreeSet<&str> = names.iter().filter_map(|name| name.split('.').next()).collect();
        let parts = parts.into_iter().collect::<Vec<_>>().join(", ");
        Err(format!(
            "train.optim.weight_decay_of.\"{unknown}\" matches no parameter: the model's parts are {parts}; a \
             checkpoint lists the full names"
        ))
    }
}

impl TrainConfig {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// When a value cannot be used; the message names the first such key.
    pub fn validate(&self) -> Result<(), String> {
        check_range("train.n_epochs", self.n_epochs, 1..=MAX_EPOCHS)?;
        check_range("train.batch_size", self.batch_size, 1..=MAX_BATCH_SIZE)?;
        if !(1..=self.batch_size).contains(&self.accumulate) {
            let (accumulate, batch_size) = (self.accumulate, self.batch_size);
            return Err(format!("train.accumulate = {accumulate}, expected 1 to {batch_size}, the train.batch_size"));
        }
        let at_least_1 = [("train.val_freq", self.val_freq), ("train.log_every", self.log_every)];
        for (key, value) in at_least_1 {
            check_range(key, value, 1..=u64::MAX)?;
        }
        check_range("train.collective_timeout", self.collective_timeout, 1..=MAX_TIMEOUT)?;
        if !self.lr_steps.is_sorted() {
            return Err(format!("train.lr_steps = {:?}, expected steps in rising order", self.lr_steps));
        }
        for (key, value) in [
            ("train.max_grad_norm", self.max_grad_norm),
            ("train.warmup_factor", self.warmup_factor),
            ("train.lr_ratio", self.lr_ratio),
            ("train.optim.lr", self.optim.lr),
            ("train.optim.eps", self.optim.eps),
        ] {
            check_range(key, value, SMALLEST..=LARGEST)?;
        }
        check_range("train.ema_decay", self.ema_decay, 0.0..=MAX_EMA_DECAY)?;
        if let Some(beta) = self.optim.betas.into_iter().find(|beta| !(0.0..1.0).contains(beta)) {
            return Err(format!("train.optim.betas has {beta}, expected values from 0 to just below 1"));
        }
        check_range("train.optim.weight_decay", self.optim.weight_decay, 0.0..=LARGEST)?;
        for (name, &decay) in &self.optim.weight_decay_of {
            check_range(&format!("train.optim.weight_decay_of.\"{name}\""), decay, 0.0..=LARGEST)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_that_fits_decides_of_weight_decay() {
        let weight_decay_of = [("a", 0.1), ("a.b", 0.2), ("a.bc", 0.3)].map(|(name, decay)| (name.to_owned(), decay));
        let config = AdamaxConfig { weight_decay: 0.5, weight_decay_of: weight_decay_of.into(), ..Default::default() };
        for (name, decay) in [("a.x", 0.1), ("a.b", 0.2), ("a.b.c", 0.2), ("a.bc.d", 0.3), ("ab", 0.5), ("b.a", 0.5)] {
            assert_eq!(config.weight_decay_of(name), decay, "{name}");
        }
    }
}
