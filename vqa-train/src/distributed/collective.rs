//! The interface for collective operations of several processes.

use tch::Tensor;

use crate::error::Result;

/// One of several processes that make the same calls in the same order. Each call waits for all processes, or fails in
/// all of them within a timeout.
pub trait Collective {
    /// Returns the number of this process, counted from 0.
    fn rank(&self) -> usize;

    /// Returns the number of processes.
    fn world_size(&self) -> usize;

    /// Replaces a tensor with the sum of all processes' tensors, identical in every process.
    ///
    /// # Errors
    ///
    /// When a process is gone, or does not make the call in time.
    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()>;

    /// Starts an [`all_reduce`](Collective::all_reduce) that runs concurrently with other work. The tensor must not be
    /// used until [`Pending::wait`] has returned. The default implementation does it immediately.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::all_reduce`].
    fn start_all_reduce(&self, mut tensor: Tensor) -> Result<Pending<'_>> {
        self.all_reduce(&mut tensor)?;
        Ok(Pending::done())
    }

    /// Replaces a tensor with that of process `root`.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::all_reduce`].
    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()>;

    /// Waits until all processes have made this call.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::all_reduce`].
    fn barrier(&self) -> Result<()> {
        self.all_reduce(&mut Tensor::from_slice(&[0i64]))
    }
}

/// A collective operation in progress.
pub struct Pending<'a>(pub(crate) Box<dyn FnOnce() -> Result<()> + 'a>);

impl Pending<'_> {
    /// An operation that is finished already.
    pub(crate) fn done() -> Self {
        Pending(Box::new(|| Ok(())))
    }

    /// Waits for the operation to finish.
    ///
    /// # Errors
    ///
    /// Those of the operation.
    pub fn wait(self) -> Result<()> {
        (self.0)()
    }
}

/// The [`Collective`] of a single process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SingleProcess;

impl Collective for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut Tensor) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, _: &mut Tensor, _: usize) -> Result<()> {
        Ok(())
    }
}
