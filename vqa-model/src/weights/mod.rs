//! Weights in files: safetensors, named as in PyTorch, and PyTorch's own.

mod floats;
pub(crate) mod load;
pub(crate) mod pth;
pub(crate) mod safetensors;

pub use self::{
    load::{load_weights, save_weights},
    pth::read_pth,
    safetensors::{Header, read_header, read_tensors, write_tensors},
};
