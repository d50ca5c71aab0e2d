//! A client that can send arbitrary bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The first answer of `POST /api/ask`.
    pub fn best(&self) -> String {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()[0]["answer"].as_str().unwrap().to_owned()
    }
}

/// A connection. Waits are limited, so that a silent server fails a test instead of hanging it.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Sends bytes. Returns whether the server still accepts them.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Closes the sending side.
    pub fn end(&mut self) {
        let _ = self.stream.get_mut().shutdown(std::net::Shutdown::Write);
    }

    /// Receives a response; `None` if the server closes the connection instead.
    pub fn receive(&mut self) -> Option<Response> {
        let mut line = String::new();
        let mut next = |stream: &mut BufReader<TcpStream>| {
            line.clear();
            let n = stream.read_line(&mut line).ok()?;
            (n > 0).then(|| line.trim_end().to_owned())
        };
        let first = next(&mut self.stream)?;
        let status = first.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = next(&mut self.stream)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ")?;
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        // A response without a body may have no length.
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, length)| length);
        let length = length.parse().ok()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some(Response { status, headers, body })
    }

    /// Waits until the server closes the connection. Returns false if it doesn't within the read timeout.
    pub fn is_ended(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0)) || {
            // A reset counts as closed; a timeout does not.
            let error = self.stream.read(&mut [0]).err().map(|error| error.kind());
            error.is_some_and(|kind| kind != std::io::ErrorKind::WouldBlock)
        }
    }
}

/// A request as bytes.
pub fn request(method: &str, path: &str, host: SocketAddr, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends one request on a connection of its own.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Response> {
    let mut client = Client::connect(address);
    client.send(&request(method, path, address, headers, body));
    client.receive()
}

pub fn get(address: SocketAddr, path: &str) -> Response {
    send(address, "GET", path, &[], b"").unwrap()
}

pub const JSON: (&str, &str) = ("Content-Type", "application/json");

pub fn post_json(address: SocketAddr, path: &str, body: &Value) -> Response {
    send(address, "POST", path, &[JSON], body.to_string().as_bytes()).unwrap()
}

/// The content type and the body of a form. A field with a file name is sent as a file.
pub fn form(fields: &[(&str, Option<&str>, &[u8])]) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "a-line-that-no-picture-has";
    let mut body = Vec::new();
    for (name, file, value) in fields {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend_from_slice(value);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

pub fn post_form(address: SocketAddr, path: &str, fields: &[(&str, Option<&str>, &[u8])]) -> Response {
    let (content_type, body) = form(fields);
    send(address, "POST", path, &[("Content-Type", &content_type)], &body).unwrap()
}

/// Sends a picture and asks about it.
pub fn ask(address: SocketAddr, picture: &[u8], question: &str) -> Response {
    let fields = [("question", None, question.as_bytes()), ("image", Some("p.png"), picture)];
    post_form(address, "/api/ask", &fields)
}
