//! Drawing a part of the questions to validate on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::message::counted;
use crate::random::split_mix_64;

/// What is drawn for validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValBy {
    /// Pictures, each with all of its questions: no picture is in both splits.
    #[default]
    Image,
    /// Questions, whatever their pictures.
    Question,
}

/// Draws a share of some items by their keys: items with equal keys go together, and a seed always draws the same ones.
/// At least one key is drawn, and at least one is left.
///
/// # Errors
///
/// When there are fewer than two keys.
pub(super) fn draw(keys: &BTreeSet<u64>, share: f64, seed: u64, what: &str) -> Result<BTreeSet<u64>> {
    if keys.len() < 2 {
        let problem = format!(
            "--val splits the {what}s of the training questions, and there is {}: leave it out",
            counted(keys.len(), what)
        );
        return Err(Error::invalid(problem));
    }
    let n = ((keys.len() as f64 * share).round() as usize).clamp(1, keys.len() - 1);
    let of_seed = split_mix_64(seed);
    let mut order: Vec<u64> = keys.iter().copied().collect();
    order.sort_by_key(|&key| (split_mix_64(of_seed ^ key), key));
    Ok(order.into_iter().take(n).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_drawn_by_the_seed() {
        let keys: BTreeSet<u64> = (0..100).collect();
        let drawn = |share, seed| draw(&keys, share, seed, "pictures").unwrap();
        assert_eq!((drawn(0.1, 1).len(), drawn(0.001, 1).len(), drawn(0.999, 1).len()), (10, 1, 99));
        assert_eq!(drawn(0.1, 1), drawn(0.1, 1));
        assert_ne!(drawn(0.1, 1), drawn(0.1, 2));
        assert!(drawn(0.2, 1).is_superset(&drawn(0.1, 1)));
        assert!(draw(&[3].into(), 0.1, 1, "picture").is_err());
    }
}
