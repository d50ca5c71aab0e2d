//! What several processes compute together.

use tch::Tensor;

use crate::error::Result;

/// A process among several that make the same calls in the same order. Each call waits for all of them, or fails within
/// a timeout in all.
pub trait Collective {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn world_size(&self) -> usize;

    /// Replaces a tensor by the sum of all processes' tensors, the same in every process.
    ///
    /// # Errors
    ///
    /// When a process is gone, or does not come in time.
    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()>;

    /// Begins an [`all_reduce`](Collective::all_reduce) that goes on beside other work, which leaves the tensor alone until
    /// it has been waited for. Here it is done at once.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::all_reduce`].
    fn start_all_reduce(&self, mut tensor: Tensor) -> Result<Pending<'_>> {
        self.all_reduce(&mut tensor)?;
        Ok(Pending::done())
    }

    /// Replaces a tensor by that of process `root`.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::all_reduce`].
    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()>;

    /// Waits until all processes are here.
    ///
    /// # Errors
    ///
    /// Those of [`Collective::all_reduce`].
    fn barrier(&self) -> Result<()> {
        self.all_reduce(&mut Tensor::from_slice(&[0i64]))
    }
}

/// What was begun and is not over.
pub struct Pending<'a>(pub(crate) Box<dyn FnOnce() -> Result<()> + 'a>);

impl Pending<'_> {
    /// What is over already.
    pub(crate) fn done() -> Self {
        Pending(Box::new(|| Ok(())))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Those of what was begun.
    pub fn wait(self) -> Result<()> {
        (self.0)()
    }
}

/// A process that is alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Solo;

impl Collective for Solo {
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
