//! A server with a web page for asking a model, and an HTTP API.
//!
//! A [`Server`] serves a checkpoint, with an optional extractor for new pictures and an optional [`Gallery`] of images
//! whose features are already extracted. One thread owns the model and answers all waiting questions in one batch;
//! another extracts the regions of new pictures, which are cached by their content. [`ServeOptions`] set who may reach
//! the server, and its [`Limits`] what it accepts: every queue is bounded, and every wait has a timeout.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use vqa_infer::Answerer;
//! use vqa_infer::serve::{ServeOptions, Server};
//!
//! let (checkpoint, extractor) = Answerer::open("runs/rooms".as_ref(), None, None)?.into_parts();
//! let server = Server::bind(checkpoint, Some(extractor), None, &ServeOptions::default())?;
//! println!("http://{}/", server.address());
//! server.run(&AtomicBool::new(false))?;
//! # Ok::<(), vqa_infer::Error>(())
//! ```

mod api;
mod app;
mod cache;
mod collector;
mod extraction_thread;
mod gallery;
mod guard;
mod model_thread;
mod options;
mod pictures;
mod problem;
mod request;
mod routes;
mod server;
mod telemetry;
mod thumbnail;

pub use self::{
    gallery::Gallery,
    options::{Limits, ServeOptions},
    server::Server,
};
