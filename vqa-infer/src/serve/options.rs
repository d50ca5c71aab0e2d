//! The options and limits of a server.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The options of a server. By default it listens on any free port, and only this computer can reach it.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 for any free one.
    pub port: u16,
    /// The token that every request must carry. An address other than a loopback one requires a token.
    pub token: Option<String>,
    /// The most questions in one batch; 1 answers questions one by one.
    pub max_batch: usize,
    /// A JSON-lines file to which verdicts on answers are appended; the pictures go to a directory beside it.
    pub collect: Option<PathBuf>,
    /// The limits on what clients may use.
    pub limits: Limits,
}

/// The limits of a server, so that no client can exhaust it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. A few more are told that there are too many; any beyond those wait.
    pub connections: usize,
    /// Requests that wait for the model, apart from those in the current batch.
    pub waiting: usize,
    /// Bytes of a picture.
    pub picture_bytes: usize,
    /// Pixels of a picture.
    pub pixels: u64,
    /// Bytes of all pictures that are being received or wait for extraction.
    pub pending_bytes: usize,
    /// Characters of a question.
    pub question_chars: usize,
    /// Questions in one request.
    pub questions: usize,
    /// Bytes of the caches: half for regions, a quarter for the model's encodings of images, and a quarter for
    /// thumbnails.
    pub cache_bytes: usize,
    /// Bytes of all collected pictures.
    pub collected_bytes: u64,
    /// Time for the head of a request to arrive, and for an idle connection to wait for its next request.
    pub head_time: Duration,
    /// Time for a request, from its head to its answer.
    pub request_time: Duration,
    /// Time within which a client must accept some more of an answer.
    pub write_time: Duration,
    /// Time that open requests have to finish when the server stops.
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
