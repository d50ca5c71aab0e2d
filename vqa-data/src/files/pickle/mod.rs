//! Reads Python's pickles as data: numbers, text, lists, tuples and dicts. No code in a pickle is ever run.
//!
//! A pickle is a program for a stack machine. [`machine`] is that machine without the one ability that makes pickles
//! dangerous: it calls only the few names in [`calls`], which turn data into data. All values are kept in one list and
//! refer to each other by their indices in it, so nesting costs no stack, a value that is used a thousand times is
//! stored once, and memory use is proportional to the size of the file.

mod calls;
mod heap;
mod literals;
mod machine;
mod node;
#[cfg(test)]
pub(crate) mod tests;
mod values;

pub(crate) use self::values::{Pickle, Value};

/// Whether a file is a pickle of any protocol rather than JSON: those of protocols 0 and 1 have no signature, but begin
/// with bytes that JSON cannot begin with.
pub(crate) fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x80 | b'(' | b']' | b'}')) || bytes.starts_with(b"ccollections\n")
}
