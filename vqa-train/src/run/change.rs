//! Config keys that have changed since a run was started.

use std::fmt;

/// What a new value of a key would affect in a resumed run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affects {
    /// No value that training computes, except for the last digits on another device.
    Nothing,
    /// The later steps. This is allowed, for example to recover from divergence, and the old value is noted in the
    /// run's `config.toml`.
    LaterSteps,
    /// Nothing, as long as the files are the same: they may have been moved, but must keep their names.
    Paths,
    /// The steps already made, which would have been different.
    EarlierSteps,
}

/// A key whose value has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as in `train.optim.lr`.
    pub key: String,
    /// Its value in the run.
    pub before: String,
    /// Its value now.
    pub now: String,
    pub(super) affects: Affects,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}, was {}", self.key, self.now, self.before)
    }
}

impl Change {
    /// A change of the number of processes, which affects the last digits of sums over a batch.
    pub(super) fn of_processes(before: usize, now: usize) -> Change {
        let [before, now] = [before, now].map(|n| n.to_string());
        Change { key: "processes".to_owned(), before, now, affects: Affects::LaterSteps }
    }

    /// Whether a run may be resumed with this change.
    pub(super) fn is_allowed(&self) -> bool {
        let names = |paths: &str| -> Vec<String> {
            paths.split('"').map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect()
        };
        match self.affects {
            Affects::Nothing | Affects::LaterSteps => true,
            Affects::Paths => names(&self.before) == names(&self.now),
            Affects::EarlierSteps => false,
        }
    }
}
