//! What processes decide together, made of sums.

use tch::{Kind, Tensor};

use crate::distributed::collective::Collective;
use crate::error::{Error, Result};

/// Goes on only if no process has failed: a process that has keeps its error, and the others learn of it.
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
        // There are no others to tell.
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

/// Whether it is so in any process.
pub(crate) fn any(collective: &dyn Collective, own: bool) -> Result<bool> {
    if collective.world_size() == 1 {
        return Ok(own);
    }
    Ok(counts(collective, own)?.iter().any(|&n| n > 0))
}

/// Adds up numbers of all processes, which are few.
pub(crate) fn sum(collective: &dyn Collective, numbers: &mut [f64]) -> Result<()> {
    if collective.world_size() == 1 || numbers.is_empty() {
        return Ok(());
    }
    let mut tensor = Tensor::from_slice(numbers);
    collective.all_reduce(&mut tensor)?;
    numbers.copy_from_slice(&Vec::<f64>::try_from(tensor).expect("a flat tensor of float64"));
    Ok(())
}

/// Refuses to go on where processes differ in what should be the same: pairs of a name and a value, whose names are the
/// same in all processes.
///
/// # Errors
///
/// [`Error::Differs`], in every process, with the first of the names in which any differs from process 0, and the lines of
/// their values that differ.
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

/// How often it is so in each process.
fn counts(collective: &dyn Collective, own: bool) -> Result<Vec<i64>> {
    let mut flags = vec![0i64; collective.world_size()];
    flags[collective.rank()] = i64::from(own);
    let mut flags = Tensor::from_slice(&flags);
    collective.all_reduce(&mut flags)?;
    Ok(Vec::try_from(flags).expect("a flat tensor of integers"))
}

/// The text of process `root`.
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
