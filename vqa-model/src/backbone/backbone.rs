//! The interface of a backbone: standardised pictures in; a map of features, or boxes with features, out.

use std::path::PathBuf;

use tch::{Device, Tensor};

use crate::backbone::detections::Detections;
use crate::backbone::preprocessing::Preprocessing;
use crate::error::Result;
use crate::feed::options::Precision;

/// A pretrained network that computes features of pictures. It can be sent to another thread, but not shared between
/// threads.
pub trait Backbone: Send {
    /// Returns a description of the network and of its preprocessing.
    fn info(&self) -> &BackboneInfo;

    /// Returns the device that it computes on.
    fn device(&self) -> Device;

    /// Computes the features of a batch of pictures, without gradients. The pictures are [B, 3, H, W] float32 on its
    /// [`device`](Backbone::device), standardised according to its [`preprocessing`](BackboneInfo::preprocessing). A
    /// detector can be given its pictures one at a time.
    ///
    /// # Errors
    ///
    /// When memory is full; when the output does not match [`info`](Backbone::info), or has a NaN or infinite value.
    fn forward(&self, pictures: &Tensor) -> Result<BackboneOutput>;
}

/// A description of a backbone and of its preprocessing. Two backbones whose infos are equal, except for the path of
/// the weights, compute the same features.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneInfo {
    /// Its name, such as `mobilenet-v2`; for a TorchScript module, its file's name without directories.
    pub name: String,
    /// The file of its weights, or the TorchScript file.
    pub weights: PathBuf,
    /// The SHA-256 of that file, in hexadecimal.
    pub sha256: String,
    /// Whether it returns a map or boxes.
    pub kind: BackboneKind,
    /// The length of a feature vector: C for a map [B, C, h, w], D for a detector's features [N, D].
    pub channels: usize,
    /// The number format that it computes in. The output is always float32.
    pub precision: Precision,
    /// How a picture becomes its input.
    pub preprocessing: Preprocessing,
}

/// The kind of output that a backbone computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackboneKind {
    /// A feature vector for each cell of a map.
    Map,
    /// Boxes, each with a feature vector and scores.
    Detector,
}

/// A backbone's output for a batch of B pictures.
#[derive(Debug)]
pub enum BackboneOutput {
    /// [B, C, h, w] float32, on the backbone's device.
    Map(Tensor),
    /// The detections in each picture.
    Detections(Vec<Detections>),
}
