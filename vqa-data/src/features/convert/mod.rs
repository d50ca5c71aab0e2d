//! Region features in the forms that circulate, to feature files.

pub(crate) mod collection;
pub(crate) mod hdf5;
pub(crate) mod input;
pub(crate) mod npz;
pub(crate) mod tsv;

pub use self::{
    collection::{Collection, Output},
    input::Check,
};
