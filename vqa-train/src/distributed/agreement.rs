//! Decisions that processes make together, built on sums over them.

use tch::{Kind, Tensor};

use crate::distributed::collective::Collective;
use crate::error::{Error, Result};

/// Returns `own` if no process has failed. A process that has failed keeps its own error, and the others get it as
/// [`Error::OtherProcess`].
///
/// # Errors
///
/// This process's own error, or [`Error::OtherProcess`].
pub(crate) fn agree<T>(collective: &dyn Collective, own: Result<T>) -> Result<T> {
    if collective.world_size() == 1 {
        return own;
    }
    if let Err(error) = &own
        && error.is_of_collective()
    {
        // The others cannot be reached, or have the same error.
        return own;
    }
    let failed = counts(collective, own.is_err())?;
    let Some(rank) = failed.iter().position(|&n| n > 0) else { return own };
    let words = own.as_ref().err().map(Error::to_string).unwrap_or_default();
    let words = broadcast_text(collective, rank, &words)?;
    match own {
        Err(error) => Err(error),
        Ok(_) => Err(Error::OtherProcess { rank, problem: words }),
    }
}

/// Returns whether `own` is true in any process.
pub(crate) fn any(collective: &dyn Collective, own: bool) -> Result<bool> {
    if collective.world_size() == 1 {
        return Ok(own);
    }
    Ok(counts(collective, own)?.iter().any(|&n| n > 0))
}

/// Replaces a few values with their sums over all processes.
pub(crate) fn sum(collective: &dyn Collective, numbers: &mut [f64]) -> Result<()> {
    if collective.world_size() == 1 || numbers.is_empty() {
        return Ok(());
    }
    let mut tensor = Tensor::from_slice(numbers);
    collective.all_reduce(&mut tensor)?;
    numbers.copy_from_slice(&Vec::<f64>::try_from(tensor).expect("a flat tensor of float64"));
    Ok(())
}

/// Checks that values are the same in all processes. `values` are pairs of a name and a value; all processes must give
/// the same names in the same order.
///
/// # Errors
///
/// [`Error::Differs`], in every process, with the first name whose value in any process differs from that in process 0,
/// and the lines in which the two values differ.
pub fn check_same(collective: &dyn Collective, values: &[(&str, String)]) -> Result<()> {
    for (name, value) in values {
        let of_first = broadcast_text(collective, 0, value)?;
        let differ = counts(collective, *value != of_first)?;
        if let Some(rank) = differ.iter().position(|&n| n > 0) {
            let theirs = broadcast_text(collective, rank, value)?;
            let (what, only_theirs) = ((*name).to_owned(), lines_without(&theirs, &of_first));
            return Err(Error::Differs {
                what,
                rank,
                theirs: only_theirs,
                of_first: lines_without(&of_first, &theirs),
            });
        }
    }
    Ok(())
}

fn lines_without(text: &str, other: &str) -> String {
    text.lines().filter(|line| other.lines().all(|other| other != *line)).collect::<Vec<_>>().join(", ")
}

/// Returns 1 for each process in which `own` is true, and 0 for the others.
fn counts(collective: &dyn Collective, own: bool) -> Result<Vec<i64>> {
    let mut flags = vec![0i64; collective.world_size()];
    flags[collective.rank()] = i64::from(own);
    let mut flags = Tensor::from_slice(&flags);
    collective.all_reduce(&mut flags)?;
    Ok(Vec::try_from(flags).expect("a flat tensor of integers"))
}

/// Returns the text of process `root`.
fn broadcast_text(collective: &dyn Collective, root: usize, text: &str) -> Result<String> {
    let mut len = Tensor::from_slice(&[text.len() as i64]);
    collective.broadcast(&mut len, root)?;
    let len = len.int64_value(&[0]);
    if len == 0 {
        return Ok(String::new());
    }
    let mut bytes = match collective.rank() == root {
        true => Tensor::from_slice(text.as_bytes()),
        false => Tensor::zeros([len], (Kind::Uint8, tch::Device::Cpu)),
    };
    collective.broadcast(&mut bytes, root)?;
    let bytes = Vec::<u8>::try_from(bytes).expect("a flat tensor of bytes");
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
