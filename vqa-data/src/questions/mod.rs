//! Questions and annotators' answers, from VQA2.0's JSON to ids.
//!
//! [`Split::load`] reads and joins the files of a split; [`build_dictionaries`] builds a [`WordDict`] and an
//! [`AnswerDict`] from splits; [`EncodedQuestions`] holds a split as tokens and [`SoftTargets`]. [`prepare`] writes the
//! dictionaries of a config and encodes its splits. [`import`] makes files in VQA2.0's format from other datasets.

pub(crate) mod annotations;
pub(crate) mod count_answers;
pub(crate) mod dictionary;
pub(crate) mod encode;
pub(crate) mod fingerprint;
pub(crate) mod glove;
pub(crate) mod image_paths;
pub mod import;
pub(crate) mod json;
mod list_kind;
mod not_json;
mod pickled_vocabulary;
pub(crate) mod prepare;
pub(crate) mod scan;
pub(crate) mod soft_targets;
pub(crate) mod split;
pub(crate) mod tokenize;
mod whole_number;

/// The ordered map that splits are kept in.
pub use indexmap::IndexMap;

pub use self::{
    annotations::{Annotation, Annotations, NewAnnotation},
    count_answers::CountAnswers,
    dictionary::{AnswerDict, Encoded, WordDict, soft_score},
    encode::{EncodedQuestions, SplitReport},
    fingerprint::DictFingerprint,
    glove::WordVectors,
    image_paths::ImagePaths,
    json::{Answer, Question, read_annotations, read_questions, read_results},
    prepare::{DictConfig, build_dictionaries, make_dictionaries, prepare},
    soft_targets::SoftTargets,
    split::{SourceConfig, Split, SplitConfig},
    tokenize::tokenize,
};
