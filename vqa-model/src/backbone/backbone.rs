//! What a backbone is: standardised pictures in; a map of features, or boxes with features, out.

use std::path::PathBuf;

use tch::{Device, Tensor};

use crate::backbone::detections::Detections;
use crate::backbone::preprocessing::Preprocessing;
use crate::error::Result;
use crate::feed::options::Precision;

/// A pretrained network that makes features of pictures. Its tensors are those of one thread at a time: it can be sent
/// to another, and is not shared.
pub trait Backbone: Send {
    /// What it is, and how it wants its pictures.
    fn info(&self) -> &BackboneInfo;

    /// Where it computes.
    fn device(&self) -> Device;

    /// The features of a batch of pictures, [B, 3, H, W] float32 on its [`device`](Backbone::device), standardised
    /// as its [`preprocessing`](BackboneInfo::preprocessing) says, without gradients. A detector's pictures may be
    /// given one at a time.
    ///
    /// # Errors
    ///
    /// When memory is full; when the output is not what [`info`](Backbone::info) says, or has a NaN or infinite value.
    fn forward(&self, pictures: &Tensor) -> Result<BackboneOutput>;
}

/// What a backbone is, and how it wants its pictures: two whose infos agree, but for the place of their weights, make
/// the same features.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneInfo {
    /// Its name, `mobilenet-v2` for example; of a TorchScript module, that of its file without directories.
    pub name: String,
    /// The file of its weights, or the TorchScript file.
    pub weights: PathBuf,
    /// The SHA-256 of that file, in hexadecimal.
    pub sha256: String,
    /// Whether it gives a map, or boxes.
    pub kind: BackboneKind,
    /// The length of a feature vector: C of a map [B, C, h, w], D of a detector's features [N, D].
    pub channels: usize,
    /// The number format that it computes in. The output is float32 always.
    pub precision: Precision,
    /// How a picture becomes its input.
    pub preprocessing: Preprocessing,
}

/// What a backbone makes of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackboneKind {
    /// A feature vector for each cell of a map.
    Map,
    /// Boxes, each with a feature vector and scores.
    Detector,
}

/// What a backbone gives for a batch of B pictures.
#[derive(Debug)]
pub enum BackboneOutput {
    /// [B, C, h, w] float32, on the backbone's device.
    Map(Tensor),
    /// Those of each picture.
    Detections(Vec<Detections>),
}
