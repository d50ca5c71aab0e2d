//! Tests of `vqa ask`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::common::{contents, fails, ok, stderr, trained, vqa};
#[cfg(target_os = "linux")]
use crate::pty::OnTerminal;

/// Runs `vqa ask` with questions on its standard input; returns what it printed.
fn ask_lines(at: &Path, arguments: &str, questions: &str) -> String {
    let mut command = vqa(at, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(questions.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "vqa {arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// `ask` extracts the same features from a picture as `features extract`: it gives the same answer to a question of the
/// split as `predict`, and the same scores, to the last digit, as with the features of the file.
#[test]
fn a_picture_is_seen_as_in_training() {
    let world = trained();
    let at = world.path();
    ok(at, "predict --checkpoint run --data val --config config.toml --out results.json");
    let results: Vec<Value> = serde_json::from_slice(&fs::read(at.join("results.json")).unwrap()).unwrap();
    let questions: Value =
        serde_json::from_slice(&fs::read(at.join("data/v2_OpenEnded_shapes_val_questions.json")).unwrap()).unwrap();
    let questions = questions["questions"].as_array().unwrap();
    let image_id = questions[0]["image_id"].as_u64().unwrap();
    let of_image: Vec<usize> = (0..questions.len()).filter(|&i| questions[i]["image_id"] == image_id).collect();
    assert!(of_image.len() > 1);
    let text = |i: usize| questions[i]["question"].as_str().unwrap();
    let lines: String = of_image.iter().map(|&i| format!("{}\n", text(i))).collect();
    let picture = format!("data/images/val/shapes_val_{image_id:012}.jpg");
    let asked = ask_lines(at, &format!("ask run {picture} --json"), &lines);
    for (&i, line) in of_image.iter().zip(asked.lines()) {
        let answers: Vec<Value> = serde_json::from_str(line).unwrap();
        assert_eq!(answers.len(), 5);
        assert_eq!(answers[0]["answer"], results[i]["answer"], "{}", text(i));
        let scores: Vec<f64> = answers.iter().map(|answer| answer["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] <= 1.0 && scores[4] >= 0.0, "{scores:?}");
    }
    assert_eq!(asked.lines().count(), of_image.len());

    let of_file = format!("ask run --features val.h5 --image-id {image_id} --json");
    assert_eq!(ask_lines(at, &of_file, &lines), asked);
    let output = vqa(at, &format!("ask run {picture} --json")).arg(text(of_image[0])).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), asked.lines().next().unwrap());
    let output = vqa(at, &of_file).arg(text(of_image[0])).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), asked.lines().next().unwrap());
}

#[test]
fn unknown_words_are_named_and_maps_are_drawn() {
    let world = trained();
    let at = world.path();
    let picture = fs::read_dir(at.join("data/images/val")).unwrap().next().unwrap().unwrap().path();
    let ask = |options: &str| {
        let mut command = vqa(at, "ask run");
        command.arg(&picture).arg("is the zyzzyva a Quokka, a zyzzyva?").args(options.split_whitespace());
        command.output().unwrap()
    };
    let output = ask("--top 2 --map maps/map.png");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("read as padding: zyzzyva, quokka\n"), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), 3, "{printed}");
    assert!(printed.lines().last().unwrap().starts_with("looked most at x "), "{printed}");
    // More answers than there are: all of them.
    let output = ask("--top 9223372036854775808 --json");
    assert!(output.status.success(), "{}", stderr(&output));
    let n_answers = serde_json::from_slice::<Vec<Value>>(&fs::read(at.join("answers.json")).unwrap()).unwrap().len();
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap().len(), n_answers);
    let drawn = image::open(at.join("maps/map.png")).unwrap();
    assert_eq!((drawn.width(), drawn.height()), image::image_dimensions(&picture).unwrap());
    // The file exists now.
    let refused = ask("--map maps/map.png");
    assert!(!refused.status.success() && stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert!(ask("--map maps/map.png --force").status.success());

    let arguments = format!("ask run {} --map maps/some.jpg", picture.display());
    ask_lines(at, &arguments, "what is it?\n\n what colour is it?");
    let names: Vec<String> = contents(&at.join("maps")).keys().map(|path| name(path)).collect();
    assert_eq!(names, ["map.png", "some_1.jpg", "some_2.jpg"]);
}

/// With iTerm's protocol: the picture as a PNG file in base64.
#[cfg(target_os = "linux")]
#[test]
fn maps_are_shown_in_terminals_that_show_pictures() {
    let world = trained();
    let at = world.path();
    let picture = fs::read_dir(at.join("data/images/val")).unwrap().next().unwrap().unwrap().path();
    let ask = |program: &str, options: &str| {
        let mut command = vqa(at, "ask run");
        command.arg(&picture).arg("what is it?").args(options.split_whitespace());
        // Ignore the terminal that these tests run in.
        command.env_remove("LC_TERMINAL").env_remove("KONSOLE_VERSION");
        command.env("TERM", "xterm-256color").env("TERM_PROGRAM", program);
        let (code, output) = OnTerminal::start(command, 80).finish();
        assert_eq!(code, Some(0), "{output}");
        output
    };
    let shown = ask("iTerm.app", "--map map.png");
    let (_, rest) = shown.split_once("\x1b]1337;File=inline=1;").unwrap();
    let (_, data) = rest.split('\x07').next().unwrap().split_once(':').unwrap();
    let png = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
    assert_eq!(image::load_from_memory(&png).unwrap().to_rgb8(), image::open(at.join("map.png")).unwrap().to_rgb8());
    assert!(shown.contains("looked most at x "), "{shown}");
    for (program, options) in [("xterm", "--map other.png"), ("iTerm.app", ""), ("iTerm.app", "--map json.png --json")]
    {
        let output = ask(program, options);
        assert!(!output.contains("\x1b]") && !output.contains('▄'), "{program}: {output:?}");
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn what_cannot_be_asked_is_explained() {
    let world = trained();
    let at = world.path();
    let picture = fs::read_dir(at.join("data/images/val")).unwrap().next().unwrap().unwrap().path();
    let picture = picture.strip_prefix(at).unwrap().display();
    fails(at, "ask run nowhere.jpg what?", &["nowhere.jpg", "no such file"]);
    fails(at, "ask run config.toml what?", &["config.toml: "]);
    fails(at, &format!("ask nothing {picture} what?"), &["nothing", "no such file"]);
    fails(at, "ask run --features val.h5 --image-id 7000000 what?", &["val.h5: no image 7000000 in it"]);
    fails(at, "ask run --features val.h5 --image-id 7000000 what? --map m.jpg", &["m.jpg", "give one"]);
    fails(at, &format!("ask run {picture} what? --map map.gif"), &["map.gif", ".jpg or .png"]);
    fails(at, &format!("ask run {picture}"), &["no question on stdin"]);
    // Regions that are made without a network, or read from a file.
    fails(at, &format!("ask run {picture} what? --weights w.pt"), &["no use for w.pt", "leave out --weights"]);
    fails(at, "ask run --features val.h5 --image-id 1 what? --weights w.pt", &["--weights", "cannot be used with"]);
    // A picture with fewer pixels than the extractor has cells, and features of another extractor.
    image::RgbImage::new(1, 1).save(at.join("tiny.png")).unwrap();
    fails(at, "ask run tiny.png what?", &["tiny.png: the picture: 1 x 1 pixels", "4 x 5 cells"]);
    ok(at, "features extract --images data/images/val --out other.h5 --grid 4x5 --whole --patch 2");
    fails(at, "ask run --features other.h5 --image-id 1 what?", &["other.h5: 12 values per region"]);
}
