//! Many clients at once, and shutting down.

use std::sync::atomic::Ordering;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vqa_infer::serve::{Limits, ServeOptions};

use crate::client::{Client, ask, form, get, post_form, post_json, request};
use crate::stub::{Running, expected, png};

/// Questions that wait while the model is busy are answered in one batch, and each client gets its own replies.
#[test]
fn questions_that_wait_are_asked_together() {
    let server = Running::start(Duration::from_millis(100), &ServeOptions::default());
    let pictures: Vec<Vec<u8>> = (0..4).map(|red| png(red, 4, 4)).collect();
    scope(|scope| {
        for client in 0..24 {
            let (server, picture) = (&server, &pictures[client % 4]);
            scope.spawn(move || {
                for n_words in 0..3 {
                    let question = ["x", "a", "b c"][n_words];
                    assert_eq!(ask(server.address, picture, question).best(), expected(n_words, (client % 4) as u8));
                }
            });
        }
    });
    let batches = server.seen.batches.lock().unwrap();
    assert_eq!(batches.iter().sum::<usize>(), 72);
    assert!(batches.len() < 24, "{batches:?}");
    assert_eq!(server.seen.extracted.load(Ordering::SeqCst), 4);
}

#[test]
fn without_batches_each_question_is_asked_alone() {
    let options = ServeOptions { max_batch: 1, ..ServeOptions::default() };
    let server = Running::start(Duration::from_millis(5), &options);
    scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(ask(server.address, &png(1, 4, 4), "a").best(), expected(1, 1)));
        }
    });
    assert_eq!(*server.seen.batches.lock().unwrap(), [1; 8]);
}

/// A request with more questions than fit in a batch is answered in several, like one after the other.
#[test]
fn a_long_request_is_answered_in_several_batches() {
    let options = ServeOptions { max_batch: 5, ..ServeOptions::default() };
    let server = Running::start(Duration::ZERO, &options);
    let fields = [("image", Some("p.png"), &*png(2, 4, 4)), ("question", None, b"x".as_slice())];
    let name = post_form(server.address, "/api/ask?details=1", &fields).json()["image"].clone();
    let question = |i: usize| json!({"image": name, "question": "a ".repeat(i % 4) + "x", "top_k": 1 + i % 3});
    let asked: Vec<Value> = (0..12).map(question).collect();
    let answers = post_json(server.address, "/api/ask/batch", &json!(asked)).json();
    assert_eq!(*server.seen.batches.lock().unwrap(), [1, 5, 5, 2]);
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 12);
    for (i, answers) in answers.iter().enumerate() {
        assert_eq!((&answers[0]["answer"], answers.as_array().unwrap().len()), (&json!(expected(i % 4, 2)), 1 + i % 3));
    }
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let limits = Limits { waiting: 2, ..Limits::default() };
    let options = ServeOptions { limits, max_batch: 1, ..ServeOptions::default() };
    let server = Running::start(Duration::from_millis(300), &options);
    let statuses: Vec<u16> = scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let response = ask(server.address, &png(1, 4, 4), "a");
                    if response.status == 503 {
                        assert_eq!(response.header("retry-after"), Some("1"));
                        assert!(response.json()["error"].as_str().unwrap().contains("again"));
                    }
                    response.status
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    assert_eq!(ask(server.address, &png(1, 4, 4), "a").status, 200);
}

/// On shutdown, requests already received are answered and new connections are refused.
#[test]
fn it_ends_when_what_was_asked_is_answered() {
    let mut server = Running::start(Duration::from_millis(500), &ServeOptions::default());
    let (content_type, body) = form(&[("question", None, b"a"), ("image", Some("p.png"), &png(1, 4, 4))]);
    let mut client = Client::connect(server.address);
    client.send(&request("POST", "/api/ask", server.address, &[("Content-Type", &content_type)], &body));
    let mut idle = Client::connect(server.address);
    idle.send(&request("GET", "/healthz", server.address, &[], b""));
    assert_eq!(idle.receive().unwrap().status, 200);
    while server.seen.batches.lock().unwrap().is_empty() {
        sleep(Duration::from_millis(5));
    }
    server.stop();
    assert_eq!(client.receive().unwrap().best(), expected(1, 1));
    // Idle connections do not delay it.
    let started = Instant::now();
    assert!(server.join());
    assert!(started.elapsed() < Duration::from_secs(9), "it waited for an idle connection");
    assert!(idle.is_ended());
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

/// A request that never finishes does not keep the server from stopping.
#[test]
fn the_end_has_a_deadline() {
    let limits = Limits { end_time: Duration::from_millis(200), ..Limits::default() };
    let mut server = Running::start(Duration::ZERO, &ServeOptions { limits, ..ServeOptions::default() });
    let mut slow = Client::connect(server.address);
    slow.send(
        format!(
            "POST /api/ask HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\nContent-Type: application/json\r\n\r\n{{",
            server.address
        )
        .as_bytes(),
    );
    // Another request gets through, so the slow one has been accepted.
    assert_eq!(get(server.address, "/healthz").status, 200);
    server.stop();
    assert!(!server.join(), "a request was not answered");
    assert!(slow.is_ended());
}

#[test]
fn a_request_that_takes_too_long_is_told_so() {
    let limits = Limits { request_time: Duration::from_millis(200), ..Limits::default() };
    let server = Running::start(Duration::from_millis(900), &ServeOptions { limits, ..ServeOptions::default() });
    let response = ask(server.address, &png(1, 4, 4), "a");
    assert_eq!(response.status, 408);
    assert!(response.json()["error"].is_string());
}
