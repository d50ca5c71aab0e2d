//! The contents of a page, before it is rendered.

use crate::map_style::MapStyle;
use crate::report::card::Cards;
use crate::report::scores::Scores;

/// Everything that a page shows.
pub(super) struct Page<'a> {
    pub title: &'a str,
    pub notes: &'a [String],
    pub style: MapStyle,
    pub scores: Option<&'a Scores>,
    pub cards: &'a Cards,
    pub skipped: &'a [Skipped],
}

/// A question whose picture cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The question's id.
    pub question_id: u64,
    /// The question.
    pub question: String,
    /// What is wrong with the picture, with the name of its file.
    pub problem: String,
}
