//! The directory of a run: the names of its files, and the formats of those that other code reads.
//!
//! | file | |
//! | --- | --- |
//! | `config.toml` | all settings of the run, with absolute paths: a [`Config`](vqa_data::config::Config) |
//! | `words.json`, `answers.json` | its dictionaries |
//! | `model_N.safetensors` | the checkpoint of epoch N, whose header is a [`CheckpointHeader`] |
//! | `state/` | the state to resume from, and the lock |
//! | `metrics.jsonl`, `curves.svg`, `tensorboard/` | its metrics, also as curves |

pub(crate) mod dir;
pub(crate) mod header;

pub use self::{dir::RunDir, header::CheckpointHeader};
