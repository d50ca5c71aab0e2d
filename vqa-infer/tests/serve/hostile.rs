//! Malicious and broken clients.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;
use vqa_infer::serve::{Limits, ServeOptions};

use crate::client::{Client, JSON, ask, form, get, post_form, post_json, request, send};
use crate::stub::{Running, expected, png};

fn quick() -> ServeOptions {
    let limits = Limits {
        head_time: Duration::from_millis(400),
        request_time: Duration::from_millis(800),
        write_time: Duration::from_millis(400),
        end_time: Duration::from_secs(2),
        ..Limits::default()
    };
    ServeOptions { limits, ..ServeOptions::default() }
}

/// Fails unless the server still answers.
fn assert_well(server: &Running) {
    assert_eq!(ask(server.address, &png(1, 4, 4), "a").best(), expected(1, 1));
}

#[test]
fn every_refusal_has_a_fitting_status() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let at = server.address;
    let (multipart, _) = form(&[]);
    let multipart = ("Content-Type", multipart.as_str());
    let long = "a ".repeat(5_000_000);
    let question = |value: serde_json::Value| json!({"image_id": 1, "question": value}).to_string().into_bytes();
    for (status, method, path, headers, body) in [
        (400, "POST", "/api/ask", vec![JSON], b"{".to_vec()),
        (400, "POST", "/api/ask", vec![JSON], b"".to_vec()),
        (400, "POST", "/api/ask", vec![JSON], b"{\"question\": \"\xff\"}".to_vec()),
        (422, "POST", "/api/ask", vec![JSON], b"[]".to_vec()),
        (422, "POST", "/api/ask", vec![JSON], b"{}".to_vec()),
        (422, "POST", "/api/ask", vec![JSON], question(json!(7))),
        (422, "POST", "/api/ask", vec![JSON], question(json!(""))),
        (422, "POST", "/api/ask", vec![JSON], question(json!("a".repeat(1001)))),
        (422, "POST", "/api/ask", vec![JSON], json!({"image_id": -1, "question": "a"}).to_string().into_bytes()),
        (422, "POST", "/api/ask", vec![JSON], json!({"image_id": 1.5, "question": "a"}).to_string().into_bytes()),
        (422, "POST", "/api/ask", vec![JSON], json!({"image": "../etc", "question": "a"}).to_string().into_bytes()),
        (422, "POST", "/api/ask", vec![JSON], json!({"path": "/etc/passwd", "question": "a"}).to_string().into_bytes()),
        (422, "POST", "/api/ask?details=maybe", vec![JSON], question(json!("a"))),
        (404, "POST", "/api/ask", vec![JSON], question(json!("a"))),
        (413, "POST", "/api/ask", vec![JSON], question(json!(long))),
        (
            413,
            "POST",
            "/api/ask/batch",
            vec![JSON],
            json!(vec![json!({"image_id": 1, "question": "a"}); 65]).to_string().into_bytes(),
        ),
        (415, "POST", "/api/ask", vec![], b"{}".to_vec()),
        (415, "POST", "/api/ask", vec![("Content-Type", "text/plain")], b"{}".to_vec()),
        (415, "POST", "/api/ask/batch", vec![multipart], b"".to_vec()),
        (400, "POST", "/api/ask", vec![("Content-Type", "multipart/form-data")], b"".to_vec()),
        (400, "POST", "/api/ask", vec![multipart], b"nothing of the kind".to_vec()),
        (405, "GET", "/api/ask", vec![], vec![]),
        (405, "DELETE", "/api/model", vec![], vec![]),
        (404, "GET", "/api/images/1/picture", vec![], vec![]),
        (404, "GET", "/../../../../etc/passwd", vec![], vec![]),
        (404, "GET", "/api/images/..%2f..%2fetc%2fpasswd/picture", vec![], vec![]),
        (404, "GET", "/api/images/%00/thumbnail", vec![], vec![]),
        (404, "GET", "/api/images/99999999999999999999999/thumbnail", vec![], vec![]),
        (404, "GET", "/page/index.html", vec![], vec![]),
        (400, "GET", "/api/images?limit=many", vec![], vec![]),
        (422, "GET", "/api/images?limit=100000", vec![], vec![]),
        (403, "POST", "/api/ask", vec![JSON, ("Origin", "http://evil.example")], question(json!("a"))),
        (403, "GET", "/api/model", vec![("Sec-Fetch-Site", "cross-site")], vec![]),
    ] {
        let response = send(at, method, path, &headers, &body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let response = response.unwrap_or_else(|| panic!("{status} {method} {path} {shown}: no response"));
        assert_eq!(response.status, status, "{method} {path} {shown}: {}", String::from_utf8_lossy(&response.body));
        assert!(response.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{path}");
    }
    assert_well(&server);
}

#[test]
fn pictures_that_are_none_or_too_large_are_refused() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    // A header that claims more pixels than fit in memory, and a picture that really is as large as it says but
    // compresses well.
    let mut claim = png(1, 1, 1);
    claim[16..24].copy_from_slice(&[0, 0, 0xc3, 0x50, 0, 0, 0xc3, 0x50]);
    let bomb = png(0, 12_000, 5_000);
    assert!(bomb.len() < 1 << 20);
    let mut cut_short = png(1, 64, 64);
    cut_short.truncate(60);
    for (what, picture, words) in [
        ("empty", Vec::new(), "empty"),
        ("text", b"<svg onload=alert(1)>".to_vec(), "not a readable picture"),
        ("zip", b"PK\x03\x04".to_vec(), "not a readable picture"),
        ("claim", claim, ""),
        ("bomb", bomb, "12000 x 5000 pixels, more than the limit of 50 million"),
        ("cut short", cut_short, "not a readable picture"),
        ("heic", b"\0\0\0\x18ftypheic".to_vec(), "HEIC"),
    ] {
        let response = ask(server.address, &picture, "a");
        assert_eq!(response.status, 422, "{what}");
        let error = response.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{what}: {error}");
    }
    let too_long = vec![0; (20 << 20) + 1];
    let response = ask(server.address, &too_long, "a");
    assert_eq!(response.status, 413);
    assert_well(&server);
}

#[test]
fn forms_that_say_things_twice_or_lie_are_refused() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let picture = png(1, 4, 4);
    let image = ("image", Some("p.png"), &*picture);
    let question = ("question", None, b"a".as_slice());
    for fields in [
        vec![image],
        vec![question],
        vec![image, image, question],
        vec![image, question, question],
        vec![image, question, ("image_id", None, b"1")],
        vec![image, question, ("shell", None, b"rm")],
        vec![image, question, ("top_k", None, b"-1")],
        vec![image, question, ("top_k", None, b"1e9")],
    ] {
        let response = post_form(server.address, "/api/ask", &fields);
        assert_eq!(response.status, 422, "{}", String::from_utf8_lossy(&response.body));
    }
    let not_utf8 = post_form(server.address, "/api/ask", &[image, ("question", None, b"\xff\xfe")]);
    assert_eq!(not_utf8.status, 400);
    assert_well(&server);
}

/// A host name that resolves to this server is not enough to use it.
#[test]
fn other_hosts_are_refused() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    for head in [
        "GET /api/model HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("GET /api/model HTTP/1.1\r\nHost: evil.example:{}\r\nContent-Length: 0\r\n\r\n", server.address.port()),
        "GET /api/model HTTP/1.1\r\nHost: localhost:1\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let mut client = Client::connect(server.address);
        client.send(head.as_bytes());
        assert_eq!(client.receive().unwrap().status, 403, "{head}");
    }
    let mut client = Client::connect(server.address);
    client.send(b"GET /api/model HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive().unwrap().status, 400);
}

#[test]
fn slow_clients_are_not_waited_for() {
    let server = Running::start(Duration::ZERO, &quick());
    // A head that never ends, and one that never begins.
    let mut slow_head = Client::connect(server.address);
    slow_head.send(b"GET / HTTP/1.1\r\nHost: localhost");
    let mut silent = Client::connect(server.address);
    // A body that arrives slowly, in bursts.
    let (content_type, body) = form(&[("question", None, &[b'a'; 500]), ("image", Some("p.png"), &png(1, 4, 4))]);
    let whole = request("POST", "/api/ask", server.address, &[("Content-Type", &content_type)], &body);
    let mut slow_body = Client::connect(server.address);
    let started = Instant::now();
    for byte in whole.chunks(400) {
        if !slow_body.send(&byte[..1]) || started.elapsed() > Duration::from_secs(20) {
            break;
        }
        if byte.len() > 1 && !slow_body.send(&byte[1..]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(900));
    }
    assert!(slow_head.is_ended());
    assert!(silent.is_ended());
    let refusal = slow_body.receive();
    assert!(refusal.is_none_or(|refusal| refusal.status == 408), "no answer to what came too late");
    // An idle connection is closed after its answer.
    let mut idle = Client::connect(server.address);
    idle.send(&request("GET", "/healthz", server.address, &[], b""));
    assert_eq!(idle.receive().unwrap().status, 200);
    assert!(idle.is_ended());
    assert_well(&server);
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let server = Running::start(Duration::from_millis(20), &quick());
    let (content_type, body) = form(&[("question", None, b"a"), ("image", Some("p.png"), &png(1, 4, 4))]);
    let whole = request("POST", "/api/ask", server.address, &[("Content-Type", &content_type)], &body);
    for len in (1..whole.len()).step_by(7).chain([whole.len()]) {
        let mut client = Client::connect(server.address);
        client.send(&whole[..len]);
        // About half of them close their sending side first, the others just disconnect.
        if len % 2 == 0 {
            client.end();
        }
    }
    // A client that has closed its sending side and still reads.
    let mut half_closed = Client::connect(server.address);
    half_closed.send(&whole);
    half_closed.end();
    assert_eq!(half_closed.receive().unwrap().best(), expected(1, 1));
    let started = Instant::now();
    loop {
        let text = String::from_utf8(get(server.address, "/metrics").body).unwrap();
        // The one connection is this request's own.
        if text.contains("vqa_connections 1\n") && text.contains("vqa_waiting_requests 0\n") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_well(&server);
}

#[test]
fn there_is_an_end_to_connections() {
    let mut options = quick();
    options.limits.connections = 4;
    options.limits.head_time = Duration::from_secs(3);
    let server = Running::start(Duration::ZERO, &options);
    let held: Vec<Client> = (0..4).map(|_| Client::connect(server.address)).collect();
    // The server has to accept them first.
    let started = Instant::now();
    let refused = loop {
        let response = get(server.address, "/healthz");
        if response.status != 200 || started.elapsed() > Duration::from_secs(20) {
            break response;
        }
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.json()["error"].is_string());
    drop(held);
    while get(server.address, "/healthz").status != 200 {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_well(&server);
}

/// Pictures being received share a limited amount of memory.
#[test]
fn there_is_an_end_to_what_is_received() {
    let mut options = ServeOptions::default();
    options.limits.pending_bytes = 64 << 10;
    let server = Running::start(Duration::ZERO, &options);
    let noise = |n: usize| (0..n).map(|i| (i * i / 8) as u8).collect::<Vec<_>>();
    let (content_type, body) = form(&[("image", Some("p.png"), &noise(60 << 10))]);
    // Everything but the end is sent.
    let head = request("POST", "/api/ask", server.address, &[("Content-Type", &content_type)], &body);
    let started = Instant::now();
    let holding = loop {
        let mut holding = Client::connect(server.address);
        holding.send(&head[..head.len() - 20]);
        // Either of the two may get the memory first.
        let response = ask(server.address, &noise(60 << 10), "a");
        if response.status == 503 {
            assert_eq!(response.header("retry-after"), Some("1"));
            break holding;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}", response.status);
    };
    // The memory that the disconnected client held is released.
    drop(holding);
    while ask(server.address, &noise(60 << 10), "a").status == 503 {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_well(&server);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Arbitrary bytes lead to a 4xx status or a closed connection, never to a 5xx status.
    #[test]
    fn any_bytes_are_borne(
        beginning in prop_oneof![
            Just("".to_owned()), Just("GET ".to_owned()), Just("POST /api/ask HTTP/1.1\r\n".to_owned()),
            Just("POST /api/ask HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        ],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        thread_local!(static SERVER: Running = Running::start(Duration::ZERO, &quick()));
        SERVER.with(|server| {
            let mut client = Client::connect(server.address);
            client.send(beginning.as_bytes());
            client.send(&bytes);
            client.end();
            if let Some(response) = client.receive() {
                assert!((400..500).contains(&response.status), "{response:?}");
            }
        });
    }

    /// Arbitrary forms and documents never lead to a 5xx status either.
    #[test]
    fn any_fields_are_borne(
        fields in prop::collection::vec(
            (
                prop_oneof![Just("image"), Just("question"), Just("image_id"), Just("top_k"), Just("x\"\r\ny")],
                any::<bool>(),
                prop_oneof![prop::collection::vec(any::<u8>(), 0..40), Just(png(1, 2, 2)), Just(b"a b".to_vec())],
            ),
            0..6,
        ),
        document in "[\\[\\]{}\",:a-z0-9_. -]{0,60}",
    ) {
        thread_local!(static SERVER: Running = Running::start(Duration::ZERO, &ServeOptions::default()));
        SERVER.with(|server| {
            let fields: Vec<_> =
                fields.iter().map(|(name, is_file, value)| (*name, is_file.then_some("f"), &**value)).collect();
            let response = post_form(server.address, "/api/ask", &fields);
            assert!(response.status == 200 || (400..500).contains(&response.status), "{response:?}");
            let response = send(server.address, "POST", "/api/ask", &[JSON], document.as_bytes()).unwrap();
            assert!((400..500).contains(&response.status), "{response:?}");
            let batch = post_json(server.address, "/api/ask/batch", &json!([document]));
            assert_eq!(batch.status, 422);
        });
    }
}

/// A client that never reads its answer does not block the server.
#[test]
fn an_answer_that_is_not_read_is_given_up() {
    let server = Running::start(Duration::ZERO, &quick());
    let mut deaf = Client::connect(server.address);
    let one = request("GET", "/page.js", server.address, &[], b"");
    let many = one.repeat(3000);
    // The server stops reading once it can write no more. Then both sides' buffers fill up, and sending ends too.
    let started = Instant::now();
    let sent = std::thread::spawn(move || {
        for chunk in many.chunks(1 << 16) {
            if !deaf.send(chunk) {
                break;
            }
        }
        deaf
    });
    assert_well(&server);
    let _deaf = sent.join().unwrap();
    while !String::from_utf8(get(server.address, "/metrics").body).unwrap().contains("vqa_connections 1\n") {
        assert!(started.elapsed() < Duration::from_secs(90));
        std::thread::sleep(Duration::from_millis(50));
    }
}
