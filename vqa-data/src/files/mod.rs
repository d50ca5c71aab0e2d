//! How files are read and written, whatever is in them: whole or not at all, and never by two processes at once.

pub(crate) mod atomic;
pub(crate) mod fingerprint;
pub(crate) mod limits;
pub(crate) mod mmap;
pub(crate) mod partial;
pub(crate) mod unfinished;

pub use self::{
    atomic::{AtomicDir, AtomicFile, create_directory, write_atomic},
    unfinished::remove_unfinished,
};
