//! Weights in files: safetensors with PyTorch's parameter names, and PyTorch's own formats.

pub(crate) mod format;
pub(crate) mod load;
pub(crate) mod pth;
pub(crate) mod safetensors;
mod state_dict;
mod stored;

pub use self::{
    load::{load_weights, save_weights},
    safetensors::{Header, read_header, read_tensors, write_tensors},
};
