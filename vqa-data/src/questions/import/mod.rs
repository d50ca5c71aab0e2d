//! Importing other datasets as files in VQA2.0's format.
//!
//! [`Import`] reads files in common forms, finds the pictures that they refer to, and writes questions and annotations
//! for each split, `images.json` (the path of each picture by its id) and a `config.toml` to start from.
//! [`ImportReport`] says what was found.
//!
//! The files are written so that the soft score and the official accuracy are equal: ten answers per question, each as
//! the official normalisation leaves it. Therefore:
//!
//! - a question's only answer becomes ten equal ones, and the answers of several annotators are repeated in turn until
//!   there are ten (if there are more than ten, the first ten are used);
//! - each item of a list in a cell, in JSON's form or in Python's, is one annotator's answer;
//! - any other text is one answer, commas included, except in DAQUAR, where one annotator may name several things, of
//!   which the first counts;
//! - a question without an answer, or whose answer normalises to nothing (such as "the"), is left out if others of its
//!   split have answers. A split without any answers is written without annotations.
//!
//! Answer types (yes/no, number, other) and question types (VQA2.0's list of beginnings) are derived where the data has
//! none.

mod answers;
mod cell;
mod columns;
mod config_file;
mod delimited;
// Only Parquet files contain pictures.
#[cfg_attr(not(feature = "parquet"), allow(dead_code))]
mod embedded;
mod form;
mod forms;
mod image_numbers;
mod json_entries;
#[cfg(feature = "parquet")]
mod parquet;
mod partition;
mod pictures;
mod question_type;
mod reader;
mod report;
mod rows;
pub(crate) mod run;
mod split_name;
mod table;
mod upper_bound;
mod write;

pub use self::{
    columns::ColumnNames,
    form::ReadFile,
    partition::ValBy,
    question_type::QUESTION_BEGINNINGS,
    report::{ImportReport, Skipped, SplitCounts},
    run::Import,
    split_name::SplitName,
    upper_bound::UpperBound,
};
