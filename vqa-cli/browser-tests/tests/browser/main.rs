//! The pages of `vqa`, in Chromium. Where there is none the tests say so and pass; `make test-browser` installs it.

mod browser;
mod harness;
mod report;
mod serve;
mod world;
