//! What only training itself keeps in the directory of a run: the state to resume from, and the lock. Also decides what
//! may differ when a run is resumed.

pub(crate) mod change;
pub(crate) mod checkpoints;
pub(crate) mod lock;
pub(crate) mod opened;
pub(crate) mod resume;
pub(crate) mod state;

pub use self::{
    change::Change,
    lock::RunLock,
    opened::{OpenedRun, check_data, train_loader, val_loader},
    resume::{Resumed, RunConfig, check_run_dir},
    state::Best,
};
