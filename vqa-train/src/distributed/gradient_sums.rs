//! Sums the gradients of several processes part by part, as soon as each part is complete.

use std::ops::Range;

use tch::{Kind, Tensor};

use crate::distributed::collective::{Collective, Pending};
use crate::error::Result;

/// The sums of a step. All processes start them in the same order.
pub(crate) struct GradientSums<'a> {
    collective: &'a dyn Collective,
    /// [n] float32.
    gradients: Tensor,
    /// The number of a group of parameters and a range of `gradients` for each part, in the order in which the parts
    /// are complete: the numbers never decrease. The parameters in no group come last.
    parts: Vec<(usize, Range<i64>)>,
    kind: Kind,
    n_begun: usize,
    pending: Vec<(Pending<'a>, Range<i64>, Tensor)>,
}

impl<'a> GradientSums<'a> {
    /// Creates the sums of gradients with these parts, to be sent as `kind`.
    pub(crate) fn new(
        collective: &'a dyn Collective,
        gradients: Tensor,
        parts: Vec<(usize, Range<i64>)>,
        kind: Kind,
    ) -> GradientSums<'a> {
        GradientSums { collective, gradients, parts, kind, n_begun: 0, pending: Vec::new() }
    }

    /// Starts summing the parts of all groups up to `number`, which must be complete.
    pub(crate) fn begin(&mut self, number: usize) -> Result<()> {
        for (_, range) in self.parts[self.n_begun..].iter().take_while(|&&(part, _)| part <= number) {
            // A view of the gradients if they are sent as float32; otherwise a converted copy.
            let part = self.gradients.narrow(0, range.start, range.end - range.start).to_kind(self.kind);
            let pending = self.collective.start_all_reduce(part.shallow_clone())?;
            self.pending.push((pending, range.clone(), part));
            self.n_begun += 1;
        }
        Ok(())
    }

    /// Starts summing the remaining parts, and waits for all of them.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.begin(usize::MAX)?;
        for (pending, range, sum) in self.pending {
            pending.wait()?;
            if self.kind != Kind::Float {
                let mut part = self.gradients.narrow(0, range.start, range.end - range.start);
                tch::no_grad(|| part.copy_(&sum));
            }
        }
        Ok(())
    }
}
