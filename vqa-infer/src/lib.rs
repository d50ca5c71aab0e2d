//! Runs a trained VQA model: its answers, and where it looked.
//!
//! An [`Answerer`] answers questions about a picture. A [`Checkpoint`] is a trained model, loaded from its path, and an
//! [`Ensemble`] averages several of them; a [`SplitWithModel`] answers and explains a data split with either.
//! [`answer_all`], [`rank_all`] and [`predict_batch`] work with any model. [`occlude_all`] answers again with some
//! regions hidden, to test whether the attention shows where an answer comes from, and [`Calibration`] measures how far
//! its probability can be trusted. [`attention_map`] draws the attention over a picture's regions as the article does,
//! and [`MapStyle`] offers other styles; both need only boxes and weights, no model. A [`Report`](report::Report) is a
//! directory of such drawings, for any number of questions, with a page that shows them. [`shuffle_images`] swaps the
//! images of a split, to measure how much a model relies on looking. The feature `serve` adds a server with a web page
//! and an HTTP API.
//!
//! # Example
//!
//! ```
//! use image::RgbImage;
//! use vqa_infer::{AttentionMapStyle, attention_map};
//!
//! let picture = RgbImage::new(64, 48);
//! let boxes = [[0.0, 0.0, 32.0, 48.0], [32.0, 0.0, 64.0, 48.0]];
//! let map = attention_map(&picture, &boxes, &[0.9, 0.1], &AttentionMapStyle::default());
//! assert_eq!(map.dimensions(), (64, 48));
//! ```

#![deny(missing_docs)]

mod answerer;
mod attention_map;
mod blind;
mod calibration;
mod checkpoint;
mod ensemble;
mod error;
mod heat_map;
mod map_style;
mod numbered_boxes;
mod occlusion;
mod picture_file;
mod predict;
mod split_with_model;

pub mod report;
#[cfg(feature = "serve")]
pub mod serve;

pub use crate::{
    answerer::{Answerer, Reply},
    attention_map::{AttentionMapStyle, attention_map, most_attended},
    blind::shuffle_images,
    calibration::{Calibration, CalibrationBin},
    checkpoint::Checkpoint,
    ensemble::Ensemble,
    error::{Error, Result},
    map_style::MapStyle,
    occlusion::{Change, Occluded, Occlusion, OcclusionMeans, OcclusionOptions, occlude_all},
    picture_file::write_picture,
    predict::{Answers, Prediction, RankedAnswers, answer_all, predict_batch, rank_all},
    split_with_model::SplitWithModel,
};
