//! Python's pickles, as data: numbers, text, lists, tuples and dicts. No code of a pickle is ever run.
//!
//! A pickle is a program for a machine with a stack. [`machine`] is that machine without the one instruction that makes
//! pickles dangerous: what it is told to call must be among the few names of [`calls`], which make data of data. The
//! values lie in one list and refer to each other by their places in it. So nesting costs no stack, a value that is
//! used a thousand times is there once, and all takes memory in proportion to the file.

mod calls;
mod heap;
mod literals;
mod machine;
mod node;
#[cfg(test)]
pub(crate) mod tests;
mod values;

pub(crate) use self::values::{Pickle, Value};

/// Whether a file is a pickle of any protocol, and not JSON: those of protocol 0 and 1 have no mark of their own, and
/// begin with what JSON cannot begin with.
pub(crate) fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x80 | b'(' | b']' | b'}')) || bytes.starts_with(b"ccollections\n")
}
