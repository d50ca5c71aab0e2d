//! Everything of visual question answering before a tensor: VQA2.0's questions and annotations, dictionaries,
//! soft scores, the official accuracy, region features, and batches. It needs no libtorch and no Python.
//!
//! A [`Split`] is the questions of one or more sources, joined with their annotations. [`build_dictionaries`] makes a
//! [`WordDict`] and an [`AnswerDict`] of them. A [`Dataset`] is a split encoded with the dictionaries, whose regions
//! come from a [`RegionSource`]: a memory-mapped [`FeatureFile`], or one of your own. A [`Loader`] cuts
//! it into [`Batch`]es, in an order that a seed fixes, ahead of the consumer and on all cores.
//!
//! Beside that stand [`Collection`], [`Extraction`] and [`FeatureWriter`], which make feature files of those in other
//! forms, of pictures, and of anything; [`Accuracy`], which scores answers
//! as the official evaluator does; and [`write_shapes`], which draws a small world to try it all on.
//!
//! Files that are being read are memory-mapped and must not change meanwhile. Files are written whole or not at all.
//!
//! # Example
//!
//! Draw a small dataset, extract features from its pictures, and look at the batches:
//!
//! ```
//! use std::sync::Arc;
//! use vqa_data::*;
//!
//! let dir = tempfile::tempdir().unwrap();
//! write_shapes(dir.path(), ShapesSpec { n_train: 8, n_val: 2, seed: 1 }, &|_| {})?;
//! let files = ShapesSplit::files(dir.path(), "train");
//!
//! // One region for each cell of a 2 x 3 grid, its pixels the feature.
//! let grid = Grid { rows: 2, columns: 3, whole: false, patch: 4 };
//! let pictures = list_pictures(&files.images)?;
//! let stats = ChannelStats::measure(&pictures, &|_| {})?;
//! let features = dir.path().join("train.h5");
//! let extraction = Extraction { grid, stats, element_type: ElementType::F32, shard: None };
//! extraction.write(&pictures, &features, &|_| {})?;
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

mod annotations;
mod answers;
mod atomic;
mod batch;
mod buffer;
mod convert;
mod dataset;
mod dictionary;
mod error;
mod extract;
mod features;
mod fingerprint;
mod glove;
mod json;
mod loader;
mod prepare;
mod scan;
mod score;
mod shapes;
mod shard;
mod split;
mod text;

/// The ordered map that splits are kept in.
pub use indexmap::IndexMap;

pub use crate::{
    annotations::{Annotation, Annotations, NewAnnotation},
    answers::{normalize_answer, official_accuracy},
    atomic::{AtomicDir, AtomicFile, create_directory, remove_unfinished, write_atomic},
    batch::Batch,
    buffer::Buffer,
    convert::{BadImage, Check, Collection, Output},
    dataset::{Dataset, EncodedQuestions, SoftTargets},
    dictionary::{AnswerDict, Encoded, WordDict, soft_score},
    error::{Error, Result},
    extract::{ChannelStats, Extraction, Grid, Picture, list_pictures, read_picture},
    features::{
        ElementType, FeatureFile, FeatureSummary, FeatureTable, FeatureWriter, ImageEntry, ImageRegions, LoadSpeed,
        RegionSource,
    },
    glove::WordVectors,
    json::{Answer, Question, map_file, read_annotations, read_questions, read_results},
    loader::{Batches, Loader, LoaderOptions, Sampler},
    prepare::{DictConfig, SplitReport, build_dictionaries, prepare},
    score::{Accuracy, blind_guesses},
    shapes::{ShapesSpec, ShapesSplit, write_shapes},
    shard::Shard,
    split::{SourceConfig, Split, SplitConfig, image_path, split_mix_64},
    text::tokenize,
};
