//! Data-parallel training by several processes, on one machine or many.
//!
//! Each batch is split between the processes; the gradients of their parts are summed, and every process makes the same
//! step. So N processes train the same model as one. A process's rank and the summing are behind the trait
//! [`Collective`]: [`Solo`] is for a single process, [`Processes`] for those started by torchrun or Slurm, which
//! [`Launch`] finds in the environment. Only process 0 writes files.

pub(crate) mod collective;
pub(crate) mod gradient_sums;
pub(crate) mod launch;
#[cfg(feature = "distributed")]
pub(crate) mod processes;
pub(crate) mod together;

#[cfg(feature = "distributed")]
pub use self::processes::Processes;
pub use self::{
    collective::{Collective, Pending, Solo},
    launch::{Launch, Master},
    together::check_same,
};
