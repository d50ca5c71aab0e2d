//! Folders of attention maps, and a page that shows them.

pub(crate) mod card;
pub(crate) mod explained;
pub(crate) mod folder;
#[allow(clippy::module_inception)]
pub(crate) mod report;

pub use self::{explained::Explained, report::Report};
