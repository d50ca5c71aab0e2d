//! What training keeps in the directory of a run beside what others read: the state that resuming needs, and the lock;
//! and what a run that is resumed may have otherwise than before.

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
