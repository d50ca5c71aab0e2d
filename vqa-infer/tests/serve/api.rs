//! Answers to well-behaved clients.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use vqa_infer::serve::ServeOptions;

use crate::client::{ask, get, post_form, post_json, send};
use crate::stub::{ANSWERS, Running, expected, png};

#[test]
fn answers_have_the_shape_of_hugging_faces_pipeline() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let response = ask(server.address, &png(1, 8, 6), "a b?");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let answers = response.json();
    // The softmax of 4, 3, 2, 1, from the fourth answer on: two known words plus a red value of one.
    let total: f64 = (1..=4).map(|logit| f64::from(logit).exp()).sum();
    for (i, answer) in answers.as_array().unwrap().iter().enumerate() {
        assert_eq!(answer["answer"], ANSWERS[(3 + i) % 4]);
        let score = answer["score"].as_f64().unwrap();
        assert!((score - f64::from(4 - i as u32).exp() / total).abs() < 1e-6, "{answers}");
        assert_eq!(answer.as_object().unwrap().len(), 2);
    }
    assert_eq!(answers.as_array().unwrap().len(), 4);
}

#[test]
fn a_picture_is_sent_and_looked_at_once() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let picture = png(2, 8, 6);
    let fields = [("image", Some("p.png"), &*picture), ("question", None, b"a x y x?"), ("top_k", None, b"2")];
    let details = post_form(server.address, "/api/ask?details=1", &fields).json();
    assert_eq!(details["answers"].as_array().unwrap().len(), 2);
    assert_eq!(details["answers"][0]["answer"], expected(1, 2));
    assert_eq!(details["size"], json!([8, 6]));
    assert_eq!(details["boxes"][3], json!([4.0, 3.0, 8.0, 6.0]));
    assert_eq!(details["attention"], json!([0.0, 0.0, 0.0, 1.0]));
    assert_eq!(details["unknown_words"], json!(["x", "y"]));
    let name = details["image"].as_str().unwrap();
    assert_eq!(
        post_json(server.address, "/api/ask", &json!({"image": name, "question": "a b"})).best(),
        expected(2, 2)
    );
    assert_eq!(ask(server.address, &picture, "a b c").best(), expected(3, 2));
    assert_eq!(server.seen.extracted.load(std::sync::atomic::Ordering::SeqCst), 1);
    let unknown = post_json(server.address, "/api/ask", &json!({"image": "0".repeat(64), "question": "a"}));
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_batch_is_answered_as_one_after_the_other() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let names: Vec<Value> = (0..3)
        .map(|red| {
            let fields = [("image", Some("p.png"), &*png(red, 4, 4)), ("question", None, b"a".as_slice())];
            post_form(server.address, "/api/ask?details=true", &fields).json()["image"].clone()
        })
        .collect();
    let questions: Vec<Value> = (0..12)
        .map(|i| {
            let question = ["x", "a x", "a b x", "c b a x"][i / 3];
            json!({"image": names[i % 3], "question": question, "top_k": 1 + i % 4})
        })
        .collect();
    let together = post_json(server.address, "/api/ask/batch", &json!(questions)).json();
    for (i, (question, answers)) in questions.iter().zip(together.as_array().unwrap()).enumerate() {
        assert_eq!(*answers, post_json(server.address, "/api/ask", question).json(), "{question}");
        assert_eq!(answers[0]["answer"], expected(i / 3, (i % 3) as u8));
        assert_eq!(answers.as_array().unwrap().len(), 1 + i % 4);
    }
    assert!(server.seen.batches.lock().unwrap().contains(&12));
    assert_eq!(post_json(server.address, "/api/ask/batch", &json!([])).json(), json!([]));
    let wrong = post_json(server.address, "/api/ask/batch", &json!([questions[0], {"image_id": 7, "question": "a"}]));
    assert_eq!(wrong.status, 404);
    assert!(wrong.json()["error"].as_str().unwrap().starts_with("question 1: "), "{wrong:?}");
}

/// The server has every path and method that the document describes, and no other methods on these paths.
#[test]
fn the_document_describes_what_there_is() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let document = get(server.address, "/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let path = path.replace("{image_id}", "1");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let response = send(server.address, method, &path, &[], b"").unwrap();
            let is_described = methods.get(method.to_lowercase()).is_some();
            assert_eq!(response.status != 405, is_described, "{method} {path}: {}", response.status);
            let described = &methods[method.to_lowercase()]["responses"][response.status.to_string()];
            assert!(!is_described || described.is_object(), "{method} {path}: {} is not described", response.status);
        }
    }
    for path in ["/", "/style.css", "/page.js", "/regions.js", "/icon.svg"] {
        assert_eq!(get(server.address, path).status, 200, "{path}");
    }
    let model = get(server.address, "/api/model").json();
    let wanted = &document["components"]["schemas"]["Model"]["required"];
    let keys: Vec<Value> = model.as_object().unwrap().keys().cloned().map(Value::from).collect();
    assert_eq!(keys.len(), wanted.as_array().unwrap().len());
    assert!(keys.iter().all(|key| wanted.as_array().unwrap().contains(key)), "{keys:?}");
}

/// The metrics in Prometheus's format count the requests that were sent.
#[test]
fn metrics_count_what_was_asked() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    let picture = png(0, 4, 4);
    (0..3).for_each(|_| drop(ask(server.address, &picture, "a")));
    let text = String::from_utf8(get(server.address, "/metrics").body).unwrap();
    for line in [
        "vqa_http_requests_total{route=\"/api/ask\",status=\"200\"} 3",
        "vqa_extract_duration_seconds_count 1",
        "vqa_model_duration_seconds_count 3",
        "vqa_cache_hits_total 2",
        "vqa_waiting_requests 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is wanted:\n{text}");
    }
}

#[test]
fn what_a_browser_is_told_keeps_other_pages_out() {
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    for (path, status) in [("/", 200), ("/page.js", 200), ("/api/model", 200), ("/nothing", 404), ("/api/ask", 405)] {
        let response = get(server.address, path);
        assert_eq!(response.status, status, "{path}");
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(response.header("access-control-allow-origin"), None);
    }
}

#[test]
fn with_a_token_nobody_is_let_in_without() {
    let options = ServeOptions { token: Some("secret".to_owned()), ..ServeOptions::default() };
    let server = Running::start(Duration::ZERO, &options);
    let status = |path: &str, headers: &[(&str, &str)]| send(server.address, "GET", path, headers, b"").unwrap();
    for path in ["/", "/api/model", "/metrics", "/page.js", "/nothing", "/?token=wrong"] {
        let response = status(path, &[]);
        assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Bearer")), "{path}");
    }
    assert_eq!(status("/healthz", &[]).status, 200);
    assert_eq!(status("/api/model", &[("Authorization", "Bearer secret")]).status, 200);
    let first = status("/?token=secret", &[]);
    assert_eq!((first.status, first.header("location")), (303, Some("/")));
    let cookie = first.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert_eq!(status("/", &[("Cookie", cookie.split(';').next().unwrap())]).status, 200);
    // A token in the address works for the page only.
    assert_eq!(status("/api/model?token=secret", &[]).status, 401);
}

#[test]
fn verdicts_are_kept_if_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("more.jsonl");
    let options = ServeOptions { collect: Some(file.clone()), ..ServeOptions::default() };
    let server = Running::start(Duration::ZERO, &options);
    let picture = png(3, 4, 4);
    let verdict_on = |question: &[u8], answer: &[u8], right: &[u8], picture: &[u8]| {
        let fields = [
            ("image", Some("../../p.png"), picture),
            ("question", None, question),
            ("answer", None, answer),
            ("model_answer", None, b"blue"),
            ("right", None, right),
        ];
        post_form(server.address, "/api/collect", &fields)
    };
    let verdict = |answer: &[u8], right: &[u8], picture: &[u8]| verdict_on(b"a \"b\"?", answer, right, picture);
    assert_eq!(verdict(b"blue", b"true", &picture).status, 204);
    assert_eq!(verdict(b"", b"false", &picture).status, 204);
    assert_eq!(verdict(b"blue", b"perhaps", &picture).status, 422);
    assert_eq!(verdict(b"blue", b"true", b"no picture").status, 422);
    // Questions that cannot be asked, and an answer as long.
    assert_eq!(verdict_on(b" ", b"blue", b"true", &picture).status, 422);
    assert_eq!(verdict_on(&[b'a'; 1001], b"blue", b"true", &picture).status, 422);
    assert_eq!(verdict(&[b'a'; 1001], b"false", &picture).status, 422);
    let lines = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let name = lines[0]["image"].as_str().unwrap();
    assert_eq!(
        lines[0],
        json!({"image": name, "question": "a \"b\"?", "answer": "blue", "model_answer": "blue", "right": true})
    );
    assert_eq!((lines.len(), &lines[1]["answer"], &lines[1]["right"]), (2, &json!(""), &json!(false)));
    assert_eq!(std::fs::read(directory.path().join("more_pictures").join(name)).unwrap(), picture);
    drop(server);
    let server = Running::start(Duration::ZERO, &ServeOptions::default());
    assert_eq!(post_form(server.address, "/api/collect", &[]).status, 404);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every well-formed request gets the model's answer, or is refused with a reason.
    #[test]
    fn any_question_is_answered(
        words in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "x", "?", "é", "'s"]), 0..12),
        red in any::<u8>(),
        top_k in 0u64..1100,
        details in any::<bool>(),
    ) {
        thread_local!(static SERVER: Running = Running::start(Duration::ZERO, &ServeOptions::default()));
        let question = words.join(" ");
        SERVER.with(|server| {
            let fields = [
                ("image", Some("p.png"), &*png(red, 2, 2)),
                ("question", None, question.as_bytes()),
                ("top_k", None, top_k.to_string().as_bytes()),
            ].map(|(name, file, value)| (name, file, value.to_owned()));
            let fields: Vec<_> = fields.iter().map(|(name, file, value)| (*name, *file, &**value)).collect();
            let path = if details { "/api/ask?details=1" } else { "/api/ask?details=0" };
            let response = post_form(server.address, path, &fields);
            if question.trim().is_empty() || !(1..=1000).contains(&top_k) {
                assert_eq!(response.status, 422);
                assert!(response.json()["error"].is_string());
                return;
            }
            let body = response.json();
            let answers = if details { &body["answers"] } else { &body };
            // Questions are truncated to eight words.
            let read = words.iter().filter(|word| **word != "?").take(8);
            let known = read.filter(|word| ["a", "b", "c"].contains(word)).count();
            assert_eq!(answers[0]["answer"], expected(known, red), "{question:?}");
            assert_eq!(answers.as_array().unwrap().len() as u64, top_k.min(4));
        });
    }
}
