//! Training by several processes, on one machine or many, that make each step together.
//!
//! A batch is cut over the processes, and each goes through its questions; the gradients are summed, and every process
//! makes the same step. So N processes train what one does. What a process is among the others, and how they sum, is a
//! [`Collective`]: [`Solo`] for one that is alone, and [`Processes`] for those that torchrun or Slurm has started, which
//! [`Launch`] finds in the environment. Process 0 alone writes files.

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
