//! Training of VQA models: Adamax, the learning rate schedule, the training loop, checkpoints and metrics.
//!
//! A [`Trainer`] takes any [`VqaModel`](vqa_model::VqaModel) with its parameters, a loader of batches to train on and
//! one to validate on, and a [`RunDir`](vqa_model::run::RunDir) for its output: `model_N.safetensors` for each epoch,
//! `state/` for resuming after an interruption, `metrics.jsonl`, and the metrics as curves in `tensorboard/` and
//! `curves.svg`. It reports its progress as [`Event`]s. [`Trainer::rehearse`] tries some steps and writes nothing. When
//! it trains on a GPU, it keeps the features of all images there if they fit, and waits for the GPU only to write a
//! line of metrics or to save.
//!
//! Several processes can train one model by means of a [`Collective`](distributed::Collective): see [`distributed`].
//!
//! The parts can also be used on their own: [`optim`] is everything that a step does after the forward pass, [`run`] is
//! what is kept for resuming, and [`metrics`] records how a run goes.
//!
//! # Example
//!
//! A single layer learns to tell two answers apart:
//!
//! ```
//! use tch::{Device, Kind, Tensor, nn};
//! use vqa_model::loss::bce_with_logits;
//! use vqa_train::TrainConfig;
//! use vqa_train::optim::Optimizer;
//!
//! tch::manual_seed(1);
//! let vs = nn::VarStore::new(Device::Cpu);
//! let layer = nn::linear(vs.root(), 4, 2, Default::default());
//! let mut optimizer = Optimizer::new(vs.variables(), &TrainConfig::default());
//!
//! let xs = Tensor::randn([64, 4], (Kind::Float, Device::Cpu));
//! let right = xs.select(1, 0).gt(0.0).to_kind(Kind::Float);
//! let targets = Tensor::stack(&[&right, &(1.0 - &right)], 1);
//! let loss = |optimizer: &mut Optimizer| {
//!     let loss = bce_with_logits(&xs.apply(&layer), &targets);
//!     optimizer.step(&loss);
//!     loss.double_value(&[])
//! };
//! let before = loss(&mut optimizer);
//! let after = (0..200).map(|_| loss(&mut optimizer)).last().unwrap();
//! assert!(after < 0.8 * before);
//! ```

#![deny(missing_docs)]

mod config;
mod error;
mod position;
mod recorded_steps;
mod rehearsal;
mod step;
mod trainer;
mod validation;

pub mod distributed;
pub mod metrics;
pub mod optim;
pub mod run;

pub use crate::{
    config::{AdamaxConfig, AllReduce, TrainConfig},
    error::{Error, Result, SavedFiles},
    position::Position,
    rehearsal::Rehearsal,
    trainer::{Event, Outcome, Trainer},
};
