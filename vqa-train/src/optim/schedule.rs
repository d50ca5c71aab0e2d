//! The learning rate schedule.

use crate::config::TrainConfig;

/// Returns the factor on the learning rate at a step, counted from 0, as the original PyTorch code defines it for
/// `LambdaLR`: up to `warmup_steps` it rises linearly from `warmup_factor` to 1; after that it is `lr_ratio` to the
/// power of the number of `lr_steps` at or before the step (`bisect_right`). If `warmup_steps` is 0 there is no
/// warm-up; the original code divides by zero then.
pub fn lr_factor(config: &TrainConfig, step: u64) -> f64 {
    if config.warmup_steps > 0 && step <= config.warmup_steps {
        let alpha = step as f64 / config.warmup_steps as f64;
        config.warmup_factor * (1.0 - alpha) + alpha
    } else {
        let n_passed = config.lr_steps.partition_point(|&lr_step| lr_step <= step);
        config.lr_ratio.powi(n_passed as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from the original code's `lr_schedule_func_builder`, run in Python.
    #[test]
    fn schedule_is_the_seeds() {
        let config = TrainConfig {
            warmup_steps: 4,
            warmup_factor: 0.2,
            lr_steps: vec![6, 8, 8],
            lr_ratio: 0.5,
            ..TrainConfig::default()
        };
        let expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.5, 0.5, 0.125, 0.125];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((lr_factor(&config, step as u64) - expected).abs() < 1e-12, "step {step}");
        }
        assert_eq!(lr_factor(&TrainConfig::default(), 0), 1.0);
    }
}
