//! A generated world of coloured shapes with questions in VQA2.0's formats, for learning and trying things.
//!
//! Each image shows up to seven shapes of five kinds, six colours and two sizes. Its questions are of VQA2.0's
//! three answer types, and balanced, so that a model that does not look gets little: every count from 0 to 4
//! is as frequent as the others, every "is there" has as many yes as no, and colours and kinds are drawn
//! evenly. Ten annotators answer; now and then some of them err.

pub(crate) mod draw;
pub(crate) mod questions;
pub(crate) mod scene;
pub(crate) mod write;

pub use self::write::{ShapesSpec, ShapesSplit, write_shapes};
