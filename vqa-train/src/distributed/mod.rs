//! Data-parallel training by several processes, on one machine or many.
//!
//! Each batch is split between the processes; the gradients of their parts are summed, and every process makes the same
//! step. So N processes train the same model as one. A process's rank and the summing are behind the trait
//! [`Collective`]: [`SingleProcess`] is for a single process, [`Processes`] for those started by torchrun or Slurm, which
//! [`Launch`] finds in the environment. Only process 0 writes files.

pub(crate) mod agreement;
pub(crate) mod collective;
pub(crate) mod gradient_sums;
pub(crate) mod launch;
#[cfg(feature = "distributed")]
pub(crate) mod processes;

#[cfg(feature = "distributed")]
pub use self::processes::Processes;
pub use self::{
    agreement::check_same,
    collective::{Collective, Pending, SingleProcess},
    launch::{Launch, Master, launcher_restarts},
};
