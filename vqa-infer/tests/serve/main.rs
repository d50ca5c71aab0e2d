//! Tests of the server, running a model with known answers, with clients of all kinds.

#![cfg(feature = "serve")]

mod api;
mod client;
mod hostile;
mod load;
mod stub;
