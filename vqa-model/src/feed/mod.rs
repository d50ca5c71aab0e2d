//! How a loader's batches get to a device.
//!
//! - On a CPU a batch becomes tensors when its turn comes.
//! - For a GPU the loader's thread writes each batch to pinned memory ahead of time, with features in the number type
//!   of the arithmetic, and has the GPU copy it in one go. The copy is queued with the computations, since tch has no
//!   other streams: the program waits for neither, but the two do not overlap on the GPU itself.
//! - If the features of all images fit on the GPU, they are copied there once. A batch is then a few kilobytes:
//!   tokens, targets, and the rows of its regions.

pub(crate) mod cuda;
pub(crate) mod cuda_graph;
pub(crate) mod cuda_kernel;
#[cfg(test)]
pub(crate) mod cuda_on_cpu;
#[allow(clippy::module_inception)]
pub(crate) mod feed;
pub(crate) mod options;
pub(crate) mod order;
pub(crate) mod padded_sizes;
pub(crate) mod pieces;
pub(crate) mod resident;
pub(crate) mod sent;
pub(crate) mod staging;

pub use self::{
    cuda::allow_tf32,
    cuda_graph::{CudaGraph, CudaGraphs},
    cuda_kernel::{CudaKernel, CudaModule, KernelArgument},
    feed::{FedBatch, FedPart, Feed},
    options::{FeaturesOnDevice, FeedOptions, Precision},
    order::{BatchOrder, SharedStates},
    sent::{BatchLayout, SentBatch},
};
