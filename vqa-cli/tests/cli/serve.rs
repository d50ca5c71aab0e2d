//! Tests of `vqa serve` as a program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{fails, ok, stderr, trained, vqa};

/// A running server, killed on drop.
struct Served {
    child: Child,
    /// Host and port.
    host: String,
    /// What it printed.
    line: String,
}

impl Served {
    fn start(directory: &Path, arguments: &str) -> Served {
        let mut command = vqa(directory, &format!("serve run --port 0 {arguments}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let Some((_, rest)) = line.split_once("http://") else {
            panic!("{line:?}: {}", stderr(&child.wait_with_output().unwrap()));
        };
        let host = rest.split('/').next().unwrap().to_owned();
        Served { child, host, line }
    }

    /// The status and the body of a response.
    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            self.host,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&response[9..12]).unwrap().parse().unwrap();
        (status, response[end + 4..].to_vec())
    }

    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.send("GET", path, "", b"")
    }

    fn ask(&self, question: &Value) -> Value {
        let headers = "Content-Type: application/json\r\n";
        let (status, body) = self.send("POST", "/api/ask", headers, question.to_string().as_bytes());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    fn post_form(&self, path: &str, fields: &[(&str, &[u8])]) -> (u16, Vec<u8>) {
        let mut body = Vec::new();
        for (name, value) in fields {
            let file = if *name == "image" { "; filename=\"p\"" } else { "" };
            body.extend(format!("--end\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
            body.extend([value, b"\r\n".as_slice()].concat());
        }
        body.extend(b"--end--\r\n");
        self.send("POST", path, "Content-Type: multipart/form-data; boundary=end\r\n", &body)
    }

    /// Sends a signal, and returns the exit code and stderr.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A picture of the world, its id, and a question about it.
fn some_question(at: &Path) -> (String, u64, String) {
    let text = std::fs::read_to_string(at.join("data/v2_OpenEnded_shapes_val_questions.json")).unwrap();
    let questions: Value = serde_json::from_str(&text).unwrap();
    let question = &questions["questions"][5];
    let image_id = question["image_id"].as_u64().unwrap();
    let picture = format!("data/images/val/shapes_val_{image_id:012}.jpg");
    (picture, image_id, question["question"].as_str().unwrap().to_owned())
}

fn assert_close(one: &Value, other: &Value) {
    let [one, other] = [one, other].map(|answers| answers.as_array().unwrap());
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        assert_eq!(one["answer"], other["answer"]);
        assert!((one["score"].as_f64().unwrap() - other["score"].as_f64().unwrap()).abs() < 1e-5, "{one} {other}");
    }
}

/// The server, for a picture that is sent and for the same one in the split, and `vqa ask` all give the same answers.
#[test]
fn it_answers_as_ask_does() {
    let world = trained();
    let at = world.path();
    let (picture, image_id, question) = some_question(at);
    let output = vqa(at, &format!("ask run {picture} --json")).arg(&question).output().unwrap();
    let asked: Value = serde_json::from_slice(&output.stdout).unwrap();

    let served = Served::start(at, "--data val --max-batch 8");
    assert!(served.line.starts_with("run_model_") && served.line.ends_with("/ (Ctrl-C ends it)\n"), "{}", served.line);
    let (status, page) = served.get("/");
    assert!(status == 200 && page.starts_with(b"<!DOCTYPE html>"));
    assert_close(&served.ask(&json!({"image_id": image_id, "question": question})), &asked);
    let bytes = std::fs::read(at.join(&picture)).unwrap();
    let (_, sent) = served.post_form("/api/ask", &[("image", &bytes), ("question", question.as_bytes())]);
    assert_close(&serde_json::from_slice(&sent).unwrap(), &asked);

    // The split can be browsed.
    let list =
        |query: &str| -> Value { serde_json::from_slice(&served.get(&format!("/api/images?{query}")).1).unwrap() };
    let all = list("limit=3");
    assert!(all["total"].as_u64().unwrap() > 3 && all["images"].as_array().unwrap().len() == 3);
    let found = list(&format!("search={image_id}"));
    assert!(found["images"].as_array().unwrap().iter().any(|image| image["image_id"] == image_id));
    let found = list(&format!("search={}", question.to_uppercase().replace(' ', "%20").replace('?', "%3F")));
    assert!(found["total"].as_u64().unwrap() >= 1);
    assert_eq!(list("search=no%20such%20words")["total"], 0);
    assert_eq!(served.get(&format!("/api/images/{image_id}/picture")), (200, bytes));
    let (status, thumbnail) = served.get(&format!("/api/images/{image_id}/thumbnail"));
    assert!(status == 200 && thumbnail.starts_with(b"\xff\xd8"));
}

/// A second source about the same images adds its questions, unless its features are in another file.
#[test]
fn all_questions_about_an_image_are_shown() {
    let world = trained();
    let at = world.path();
    let (_, image_id, _) = some_question(at);
    let config = std::fs::read_to_string(at.join("config.toml")).unwrap();
    let val = config.split("[model]").next().unwrap().split("[[data.val.").nth(1).unwrap();
    std::fs::write(at.join("twice.toml"), format!("{config}\n[[data.val.{val}")).unwrap();
    std::fs::copy(at.join("val.h5"), at.join("other.h5")).unwrap();
    let other = val.replace("val.h5", "other.h5");
    std::fs::write(at.join("other.toml"), format!("{config}\n[[data.val.{other}")).unwrap();
    let shown = |config: &str| {
        let served = Served::start(at, &format!("--data val --config {config}"));
        let (_, found) = served.get(&format!("/api/images?search={image_id}"));
        let found: Value = serde_json::from_slice(&found).unwrap();
        let images = found["images"].as_array().unwrap();
        let image = images.iter().find(|image| image["image_id"] == image_id).unwrap();
        (image["questions"].as_array().unwrap().len(), served.end("-INT").1)
    };
    let (n, said) = shown("config.toml");
    assert!(n > 0 && !said.contains("left out"), "{said}");
    let (n_twice, said) = shown("twice.toml");
    assert!(n_twice == 2 * n && !said.contains("left out"), "{n_twice} {said}");
    let (n_other, said) = shown("other.toml");
    assert_eq!(n_other, n);
    assert!(said.contains("an earlier source has images with the same ids in another feature file: "), "{said}");
}

#[test]
fn signals_end_it_and_verdicts_can_be_imported() {
    let world = trained();
    let at = world.path();
    let (picture, image_id, question) = some_question(at);
    let served = Served::start(at, "--data val --collect more.jsonl");
    let bytes = std::fs::read(at.join(picture)).unwrap();
    let id = image_id.to_string();
    let verdict = |image: (&str, &[u8]), answer: &str, right: &[u8]| {
        let fields = [
            image,
            ("question", question.as_bytes()),
            ("answer", answer.as_bytes()),
            ("model_answer", b"red"),
            ("right", right),
        ];
        served.post_form("/api/collect", &fields).0
    };
    assert_eq!(verdict(("image", &bytes), "red", b"true"), 204);
    assert_eq!(verdict(("image_id", id.as_bytes()), "3", b"false"), 204);
    assert_eq!(verdict(("image_id", b"77777777"), "3", b"false"), 404);
    let (code, said) = served.end("-INT");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("all pending requests were answered") && !said.contains("error"), "{said}");

    let imported: Value =
        serde_json::from_str(&ok(at, "import more.jsonl --images more_pictures --out mine --json")).unwrap();
    let text = imported.to_string();
    assert!(text.contains("\"n_questions\":2") || text.contains("\"questions\":2"), "{text}");

    let (code, _) = Served::start(at, "").end("-TERM");
    assert_eq!(code, Some(130));
}

#[test]
fn what_cannot_be_served_is_named() {
    let world = trained();
    let at = world.path();
    fails(at, "serve nowhere", &["nowhere"]);
    fails(at, "serve run --data nothing", &["no split \"nothing\"", "val"]);
    fails(at, "serve run --config config.toml", &["required arguments"]);
    fails(at, "serve run --weights w.pt", &["no use for w.pt", "leave out --weights"]);
    let served = Served::start(at, "");
    let port = served.host.rsplit(':').next().unwrap();
    fails(at, &format!("serve run --port {port}"), &[&format!("127.0.0.1:{port}"), "another port"]);
    fails(at, "serve run --port 0 --host 0.0.0.0 --token=", &["the token is empty"]);
    fails(at, "serve run --port 0 --token a;b", &["letters, digits"]);
    fails(at, "serve run --port 0 --collect config.toml", &["config.toml", "something other"]);
}

/// A server that other computers can reach has a token, whether one was given or not.
#[test]
fn others_need_a_token() {
    let world = trained();
    let served = Served::start(world.path(), "--host 0.0.0.0");
    let (_, token) = served.line.split_once("?token=").unwrap();
    let token = token.split(' ').next().unwrap();
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    assert_eq!(served.get("/api/model").0, 401);
    assert_eq!(served.send("GET", "/api/model", &format!("Authorization: Bearer {token}\r\n"), b"").0, 200);
    assert_eq!(served.get(&format!("/?token={token}")).0, 303);
    let (_, said) = served.end("-INT");
    assert!(said.contains("warning: anyone who can reach this computer"), "{said}");
}
