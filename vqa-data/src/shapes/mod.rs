//! A generated world of coloured shapes, with questions in VQA2.0's formats, for learning and for experiments.
//!
//! Each image shows up to seven shapes of five kinds, six colours and two sizes. Its questions cover VQA2.0's three
//! answer types and are balanced, so that a model that ignores the image scores low: all counts from 0 to 4 are equally
//! frequent, every "is there" has as many yes as no, and colours and kinds are drawn uniformly. Ten annotators answer;
//! now and then some of them err.

pub(crate) mod draw;
pub(crate) mod questions;
pub(crate) mod scene;
pub(crate) mod write;

pub use self::write::{ShapesSpec, ShapesSplit, write_shapes};
