//! Any dataset that people have, as VQA2.0's files.
//!
//! [`Import`] reads files in the forms that circulate, finds the pictures that they mean, and writes questions and
//! annotations for each split, `images.json` (the path of each picture by its id) and a `config.toml` to start from.
//! [`ImportReport`] says what it has found.
//!
//! What is written is such that the soft score and the official accuracy are the same number: ten answers a question,
//! each as the official normalisation leaves it. So
//!
//! - the one answer of a question becomes ten equal ones, and the answers of several annotators are repeated in turn
//!   until there are ten (of more than ten the first ten count);
//! - a list in a cell, in JSON's form or in Python's, has one annotator's answer in each item;
//! - any other text is one answer, commas included, but for DAQUAR, whose one annotator names several things: the first
//!   one counts;
//! - a question without an answer, or whose answer normalisation leaves nothing of (as "the"), is left out where others
//!   of its split have answers. A split in which none has is written without annotations.
//!
//! Answer types (yes/no, number, other) and question types (VQA2.0's list of beginnings) are derived where the data has
//! none.

mod answers;
mod cell;
mod columns;
mod config_file;
mod delimited;
// Only Parquet files bring pictures along.
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
