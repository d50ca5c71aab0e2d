//! Tests of the pages of `vqa`, in Chromium. If it is not installed, the tests say so and pass; `make test-browser`
//! installs it.

mod browser;
mod harness;
mod report;
mod serve;
mod world;
