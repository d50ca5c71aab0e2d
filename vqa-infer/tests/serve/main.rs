//! The server, on a model whose answers are known, asked by clients of all kinds.

#![cfg(feature = "serve")]

mod api;
mod client;
mod hostile;
mod load;
mod stub;
