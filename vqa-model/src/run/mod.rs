//! The directory of a run: the names of its files and what the parts that others read look like.
//!
//! | file | |
//! | --- | --- |
//! | `config.toml` | everything that made the run, its paths absolute: a [`Config`](vqa_data::config::Config) |
//! | `words.json`, `answers.json` | its dictionaries |
//! | `model_N.safetensors` | the checkpoint of epoch N, whose header is a [`CheckpointHeader`] |
//! | `state/` | what resuming needs |
//! | `metrics.jsonl`, `curves.svg`, `tensorboard/` | how it went |

pub(crate) mod dir;
pub(crate) mod header;

pub use self::{dir::RunDir, header::CheckpointHeader};
