//! Reading and writing of files, whatever their content. Files appear complete or not at all, and a feature file is
//! never written by two processes at once.
//!
//! [`AtomicFile`] and [`AtomicDir`] are written under a temporary name and renamed when they are complete;
//! [`write_atomic`] does that for bytes in memory. Feature files, which take hours, are written beside their
//! destination under a name that the next run finds. [`remove_unfinished`] tidies up when the program is stopped by a
//! signal.

pub(crate) mod atomic;
pub(crate) mod damage;
pub(crate) mod fingerprint;
pub(crate) mod input;
pub(crate) mod kind;
pub(crate) mod limits;
pub(crate) mod mmap;
#[cfg(feature = "hdf5")]
pub(crate) mod partial;
pub(crate) mod pickle;
pub(crate) mod text;
pub(crate) mod unfinished;

pub use self::{
    atomic::{AtomicDir, AtomicFile, IfExists, create_directory, try_directory, try_file, write_atomic},
    damage::panic_means_damage,
    input::{open_input, read_text, read_text_within},
    mmap::mapped_file_at,
    unfinished::remove_unfinished,
};
