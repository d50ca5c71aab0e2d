//! The data side of visual question answering: VQA2.0's questions and annotations, dictionaries, soft scores, the
//! official accuracy, region features, and batches. It needs neither libtorch nor Python.
//!
//! The modules:
//!
//! - [`questions`]: a [`Split`](questions::Split) holds the questions of one or more sources, joined with their
//!   annotations. [`build_dictionaries`](questions::build_dictionaries) builds a [`WordDict`](questions::WordDict) and
//!   an [`AnswerDict`](questions::AnswerDict) from splits.
//! - [`evaluator`]: [`Accuracy`](evaluator::Accuracy) scores answers as the official evaluator does.
//! - [`features`]: regions come from a [`RegionSource`](features::RegionSource): a memory-mapped
//!   [`FeatureFile`](features::FeatureFile), or one of your own. [`Collection`](features::Collection),
//!   [`Extraction`](features::Extraction) and [`FeatureWriter`](features::FeatureWriter) write feature files: from
//!   other formats, from images, and from any other data.
//! - [`batches`]: a [`Dataset`](batches::Dataset) is a split encoded with the dictionaries, together with its regions.
//!   A [`Loader`](batches::Loader) cuts it into [`Batch`](batches::Batch)es, in an order fixed by a seed, ahead of the
//!   consumer and on all cores.
//! - [`shapes`]: a small generated dataset to try it all on.
//! - [`files`]: how all of these write files: each appears complete or not at all.
//!
//! Most input files are memory-mapped and must not change while they are read; if one does, [`files::mapped_file_at`]
//! finds its name from the address of the fault. Failures are reported as an [`Error`], with one variant for each
//! cause.
//!
//! The cargo features `hdf5`, `images` and `parquet` are on by default. Without them the build does not need CMake, and
//! still has questions, the evaluator, and batches of regions from a source of your own. [`shapes`] needs `images`,
//! feature files need `hdf5`, [`Extraction`](features::Extraction) needs both, and [`questions::import`] reads Parquet
//! only with `parquet`.
//!
//! # Example
//!
//! Draw a small dataset, extract features from its images, and look at the batches:
//!
#![cfg_attr(all(feature = "hdf5", feature = "images"), doc = "```")]
#![cfg_attr(not(all(feature = "hdf5", feature = "images")), doc = "```ignore")]
//! use std::sync::Arc;
//! use vqa_data::batches::{Dataset, Loader, LoaderOptions};
//! use vqa_data::features::{ChannelStats, ElementType, Extraction, Grid, PixelGrid, list_images};
//! use vqa_data::files::IfExists;
//! use vqa_data::questions::{DictConfig, SourceConfig, Split, SplitConfig, build_dictionaries};
//! use vqa_data::shapes::{ShapesSpec, ShapesSplit, write_shapes};
//!
//! let dir = tempfile::tempdir().unwrap();
//! write_shapes(dir.path(), ShapesSpec { n_train: 8, n_val: 2, seed: 1 }, &|_| {})?;
//! let files = ShapesSplit::files(dir.path(), "train");
//!
//! // One region for each cell of a 2 x 3 grid; its pixels are the feature.
//! let grid = Grid { rows: 2, columns: 3, whole: false, patch: 4 };
//! let images = list_images(&files.images)?;
//! let stats = ChannelStats::measure(&images, &|_| {})?;
//! let features = dir.path().join("train.h5");
//! let extractor = &PixelGrid { grid, stats };
//! let extraction = Extraction { extractor, element_type: ElementType::F32, shard: None, batch_size: None };
//! extraction.write(&images, &features, IfExists::Refuse, &|_| {})?;
//!
//! let source = SourceConfig {
//!     q_jsons: vec![files.questions],
//!     a_jsons: vec![files.annotations],
//!     features: Some(features),
//!     images: None,
//! };
//! let config = SplitConfig::from(vec![source]);
//! let split = Split::load(&config)?;
//! let (words, answers) = build_dictionaries([&split], &DictConfig::default());
//! let dataset = Arc::new(Dataset::open(split, &config, &words, &answers, 14)?);
//! let loader = Loader::new(dataset, LoaderOptions { batch_size: 16, ..LoaderOptions::default() });
//! for batch in loader.epoch(0, 0) {
//!     let batch = batch?;
//!     assert_eq!(batch.tokens.len(), batch.len() * 14);
//!     assert_eq!(batch.features.len(), batch.n_images() * 6 * 48);
//! }
//! # Ok::<(), vqa_data::Error>(())
//! ```

#![deny(missing_docs)]

mod error;
mod python_text;

pub mod batches;
pub mod config;
pub mod evaluator;
pub mod features;
pub mod files;
pub mod message;
pub mod questions;
pub mod random;
#[cfg(feature = "images")]
pub mod shapes;

pub use crate::error::{Error, Result};
