//! Sends questions to a running `vqa serve` from many clients, and prints how long the answers take.
//!
//!     vqa serve RUN --data val --port 8000 &
//!     cargo run --release -p vqa-benches --example serving -- 127.0.0.1:8000
//!
//! With the address of a second server, one with `--max-batch 1`, it shows what batches gain; with `--soak`, whether a
//! server's memory stays constant beside hostile clients. All runs are bounded in the number of requests and in time.

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use image::{ImageFormat, Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// Host and port of the server
    server: String,
    /// Host and port of the same server with --max-batch 1
    #[arg(long)]
    without_batches: Option<String>,
    /// Number of concurrent clients
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long they ask, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Number of questions of the single client
    #[arg(long, default_value_t = 1000)]
    questions: usize,
    /// Number of new pictures
    #[arg(long, default_value_t = 50)]
    pictures: usize,
    /// Instead, ask this many questions beside hostile clients, for at most five minutes, and watch the server's memory
    #[arg(long, requires = "pid")]
    soak: Option<usize>,
    /// Id of the server's process
    #[arg(long)]
    pid: Option<u32>,
}

fn main() {
    let args = Args::parse();
    let known = known_questions(&args.server);
    if let (Some(n), Some(pid)) = (args.soak, args.pid) {
        return soak(&args.server, &known, n, pid);
    }
    let mut one = Client::connect(&args.server);
    let latencies = (0..args.questions).map(|i| one.timed(&known[i % known.len()])).collect();
    Report::of(latencies).print("known picture, one client");
    let together = many(&args.server, &known, args.clients, args.seconds);
    together.print(&format!("known pictures, {} clients", args.clients));
    if let Some(server) = &args.without_batches {
        let alone = many(server, &known_questions(server), args.clients, args.seconds);
        alone.print(&format!("the same, --max-batch 1, {} clients", args.clients));
        println!("batches: {:.1} x the throughput", together.per_second() / alone.per_second());
    }
    // The server has closed the first connection, which was idle for too long.
    let mut one = Client::connect(&args.server);
    let new: Vec<Vec<u8>> = (0..args.pictures).map(|i| about_new_picture(&args.server, i as u64)).collect();
    Report::of(new.iter().map(|request| one.timed(request)).collect()).print("new picture, 640 x 480 JPEG");
}

/// How long answers took.
struct Report {
    /// Sorted in ascending order.
    latencies: Vec<Duration>,
    n_refused: usize,
    elapsed: Duration,
}

impl Report {
    fn of(answers: Vec<(Duration, u16)>) -> Report {
        let elapsed = answers.iter().map(|(latency, _)| *latency).sum();
        let n_refused = answers.iter().filter(|(_, status)| *status != 200).count();
        let mut latencies: Vec<Duration> = answers.into_iter().map(|(latency, _)| latency).collect();
        latencies.sort_unstable();
        Report { latencies, n_refused, elapsed }
    }

    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn print(&self, what: &str) {
        let at = |share: f64| {
            let last = self.latencies.len().saturating_sub(1);
            self.latencies.get((share * last as f64) as usize).map_or(0.0, |latency| 1e3 * latency.as_secs_f64())
        };
        println!(
            "{what}: {} answers, {} refused, {:.0}/s, p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
            self.latencies.len(),
            self.n_refused,
            self.per_second(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// Many clients, each with a connection of its own, ask one question after another.
fn many(server: &str, known: &[Vec<u8>], n_clients: usize, seconds: u64) -> Report {
    let started = Instant::now();
    let answers: Vec<(Duration, u16)> = thread::scope(|scope| {
        let ask = |first: usize| {
            move || {
                let mut client = Client::connect(server);
                let questions = (0..).map(|i| &known[(first + i * n_clients) % known.len()]);
                let still = questions.take_while(|_| started.elapsed() < Duration::from_secs(seconds));
                still.map(|question| client.timed(question)).collect::<Vec<_>>()
            }
        };
        let clients: Vec<_> = (0..n_clients).map(|first| scope.spawn(ask(first))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client that did not panic")).collect()
    });
    Report { elapsed: started.elapsed(), ..Report::of(answers) }
}

/// Good, slow and hostile clients together.
fn soak(server: &str, known: &[Vec<u8>], n: usize, pid: u32) {
    const CLIENTS: usize = 16;
    const LONGEST: Duration = Duration::from_secs(300);
    /// More than a server caches, so that filling the cache does not count as growth.
    const WARM: u64 = 1200;
    let mut first = Client::connect(server);
    for i in 0..WARM {
        first.timed(&about_new_picture(server, u64::MAX - i));
    }
    println!("{:.0} MB once what it remembers is full", resident_mb(pid));
    let (started, asked, is_over) = (Instant::now(), AtomicUsize::new(0), AtomicBool::new(false));
    let statuses: [AtomicUsize; 600] = std::array::from_fn(|_| AtomicUsize::new(0));
    let count = |status: u16| statuses[usize::from(status).min(599)].fetch_add(1, Ordering::Relaxed);
    let is_on = || !is_over.load(Ordering::Relaxed) && started.elapsed() < LONGEST;
    thread::scope(|scope| {
        for first in 0..CLIENTS {
            let (asked, is_over, count, is_on) = (&asked, &is_over, &count, &is_on);
            scope.spawn(move || {
                let mut client = Client::connect(server);
                while is_on() {
                    let i = asked.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        is_over.store(true, Ordering::Relaxed);
                        break;
                    }
                    // Now and then a new picture.
                    let new = (i % 200 == first).then(|| about_new_picture(server, i as u64));
                    count(client.timed(new.as_ref().unwrap_or(&known[i % known.len()])).1);
                }
            });
        }
        let (count, is_on) = (&count, &is_on);
        for seed in 0..4 {
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                while is_on() {
                    if let Some(status) = misbehave(server, &mut rng) {
                        count(status);
                    }
                }
            });
        }
        let asked = &asked;
        scope.spawn(move || {
            let (mut first, mut next) = (None, n / 10);
            while is_on() {
                if asked.load(Ordering::Relaxed) >= next {
                    let now = resident_mb(pid);
                    let since = *first.get_or_insert(now);
                    let done = asked.load(Ordering::Relaxed);
                    println!("{done} asked, {now:.0} MB, {:+.1} % since the first tenth", 100.0 * (now / since - 1.0));
                    next += n / 10;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
    });
    println!(
        "{} asked in {:.0} s; {:.0} MB",
        asked.load(Ordering::Relaxed).min(n),
        started.elapsed().as_secs_f64(),
        resident_mb(pid)
    );
    for (status, n) in statuses.iter().enumerate().filter(|(_, n)| n.load(Ordering::Relaxed) > 0) {
        println!("status {status}: {}", n.load(Ordering::Relaxed));
    }
}

/// Does one of the things that broken and hostile clients do. Returns the status of the response, if it waits for one.
fn misbehave(server: &str, rng: &mut ChaCha8Rng) -> Option<u16> {
    let mut client = Client::connect(server);
    let json = |body: &str| request(server, "POST", "/api/ask", "application/json", body.as_bytes());
    match rng.random_range(0..9) {
        // Sends nothing, or a head that never ends.
        0 => thread::sleep(Duration::from_millis(500)),
        1 => {
            for byte in b"GET / HTTP/1.1\r\nHost: local" {
                client.stream.get_mut().write_all(&[*byte]).ok()?;
                thread::sleep(Duration::from_millis(30));
            }
        }
        // A body that breaks off.
        2 => {
            let whole = about_new_picture(server, rng.random());
            client.stream.get_mut().write_all(&whole[..rng.random_range(0..whole.len())]).ok()?;
        }
        3 => return client.status(&json(r#"{"image_id": 1, "question": 7}"#)),
        4 => return client.status(&json(&json!({"image_id": 1, "question": "a".repeat(100_000)}).to_string())),
        5 => return client.status(&request(server, "GET", "/api/images/..%2f..%2fetc%2fpasswd/picture", "", b"")),
        6 => {
            let noise: Vec<u8> = (0..200_000).map(|_| rng.random()).collect();
            return client.status(&form(server, &noise, "what is it?"));
        }
        7 => {
            let mut bomb = encoded(&RgbImage::new(4000, 3000), ImageFormat::Png);
            // A different picture each time.
            bomb.extend(rng.random::<u64>().to_be_bytes());
            bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
            return client.status(&form(server, &bomb, "what is it?"));
        }
        _ => {
            let noise: Vec<u8> = (0..500).map(|_| rng.random()).collect();
            client.stream.get_mut().write_all(&noise).ok()?;
        }
    }
    None
}

/// The resident memory of a process in MB.
fn resident_mb(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server's process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes / 1024.0
}

/// Questions about the images of the server's split, as requests.
fn known_questions(server: &str) -> Vec<Vec<u8>> {
    const IMAGES: usize = 500;
    let list = Client::connect(server).body(&request(server, "GET", &format!("/api/images?limit={IMAGES}"), "", b""));
    let list: Value = serde_json::from_slice(&list).expect("the list of images");
    let questions: Vec<Vec<u8>> = list["images"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|image| {
            let asked = json!({"image_id": image["image_id"], "question": image["questions"][0]});
            request(server, "POST", "/api/ask", "application/json", asked.to_string().as_bytes())
        })
        .collect();
    assert!(!questions.is_empty(), "{server} has no images: start it with --data");
    questions
}

/// A request with a question about a picture that the server has not seen.
fn about_new_picture(server: &str, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let blocks: Vec<[u8; 3]> = (0..40 * 30).map(|_| rng.random()).collect();
    let picture = RgbImage::from_fn(640, 480, |x, y| Rgb(blocks[(x / 16 + y / 16 * 40) as usize]));
    form(server, &encoded(&picture, ImageFormat::Jpeg), "what is on the table?")
}

fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("memory can be written to");
    bytes.into_inner()
}

fn form(server: &str, picture: &[u8], question: &str) -> Vec<u8> {
    let head = "--next\r\nContent-Disposition: form-data; name=\"image\"; filename=\"p\"\r\n\r\n";
    let tail =
        format!("\r\n--next\r\nContent-Disposition: form-data; name=\"question\"\r\n\r\n{question}\r\n--next--\r\n");
    let body = [head.as_bytes(), picture, tail.as_bytes()].concat();
    request(server, "POST", "/api/ask", "multipart/form-data; boundary=next", &body)
}

fn request(server: &str, method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A persistent connection.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(server: &str) -> Client {
        let stream = TcpStream::connect(server).unwrap_or_else(|error| panic!("{server}: {error}"));
        stream.set_nodelay(true).expect("a socket's option");
        Client { stream: BufReader::new(stream) }
    }

    /// How long an answer takes, and its status.
    fn timed(&mut self, request: &[u8]) -> (Duration, u16) {
        let started = Instant::now();
        let status = self.status(request).expect("an answer");
        (started.elapsed(), status)
    }

    /// The status of the answer, if there is one.
    fn status(&mut self, request: &[u8]) -> Option<u16> {
        self.stream.get_mut().write_all(request).ok()?;
        Some(self.receive()?.0)
    }

    fn body(&mut self, request: &[u8]) -> Vec<u8> {
        self.stream.get_mut().write_all(request).expect("a server that takes requests");
        self.receive().expect("an answer").1
    }

    fn receive(&mut self) -> Option<(u16, Vec<u8>)> {
        let (mut status, mut length, mut line) = (None, 0, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            match (status, line.split_once(": ")) {
                (None, _) => status = Some(line.split(' ').nth(1)?.parse().ok()?),
                (_, Some(("content-length", n))) => length = n.parse().ok()?,
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((status?, body))
    }
}
