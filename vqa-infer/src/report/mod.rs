//! Writes folders of attention maps, and a page that shows them.
//!
//! A [`Choice`] selects the questions of a split to show, an [`ExplainedQuestion`] holds what is shown of one question, and a
//! [`Report`] draws them and writes the page. [`Scores`] fill the head of the page.

mod card;
pub(crate) mod choice;
mod contents;
pub(crate) mod explained;
mod folder;
mod head;
mod ledger;
mod page;
#[allow(clippy::module_inception)]
pub(crate) mod report;
pub(crate) mod scores;

pub use self::{
    choice::{Choice, Sample, Verdict},
    contents::Skipped,
    explained::ExplainedQuestion,
    report::Report,
    scores::{Confusion, Scores},
};
