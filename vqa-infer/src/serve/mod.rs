//! A page in the browser that asks a model, and an interface for programs.
//!
//! A [`Server`] is bound to a checkpoint, to what makes regions of pictures, and to a [`Gallery`] of images whose
//! features are there already. One thread owns the model and asks it all questions that wait, in one batch; another
//! makes regions of new pictures, which are remembered by their content. [`ServeOptions`] say who may reach it, and its
//! [`Limits`] what it bears: every queue has an end, and every wait a time.
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
