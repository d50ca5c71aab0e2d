//! How a server is set up, and what it bears.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// How a server is set up. The default is reached from this computer alone, on any free port.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0: any free one.
    pub port: u16,
    /// What every request must bring along. Where the address is not a loopback one, there must be a token.
    pub token: Option<String>,
    /// Most questions that the model is asked at once; 1: one after the other.
    pub max_batch: usize,
    /// A JSON-lines file to which verdicts on answers are appended; the pictures go to a directory beside it.
    pub collect: Option<PathBuf>,
    /// What it bears.
    pub limits: Limits,
}

/// What a server bears, so that no client can exhaust it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. A few more are told that there are too many, and others wait.
    pub connections: usize,
    /// Requests that wait for the model, beside those that it is asked.
    pub waiting: usize,
    /// Bytes of a picture.
    pub picture_bytes: usize,
    /// Pixels of a picture.
    pub pixels: u64,
    /// Bytes of all pictures that are being received or wait to be looked at.
    pub pending_bytes: usize,
    /// Characters of a question.
    pub question_chars: usize,
    /// Questions in one request.
    pub questions: usize,
    /// Bytes that are remembered: half of them for regions, a quarter each for what the model has computed of them and
    /// for thumbnails.
    pub cache_bytes: usize,
    /// Bytes of the pictures that are collected.
    pub collected_bytes: u64,
    /// Time for the head of a request, and to wait for the next one.
    pub head_time: Duration,
    /// Time for a request, from its head to the answer.
    pub request_time: Duration,
    /// Time in which a client must take some of an answer.
    pub write_time: Duration,
    /// Time that open requests have when the server ends.
    pub end_time: Duration,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            token: None,
            max_batch: 64,
            collect: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            waiting: 1024,
            picture_bytes: 20 << 20,
            pixels: 50_000_000,
            pending_bytes: 256 << 20,
            question_chars: 1000,
            questions: 64,
            cache_bytes: 256 << 20,
            collected_bytes: 4 << 30,
            head_time: Duration::from_secs(15),
            request_time: Duration::from_secs(30),
            write_time: Duration::from_secs(15),
            end_time: Duration::from_secs(10),
        }
    }
}
