//! Hostile input: whatever is in a file, reading it ends in a value or an error, without a panic, and without reserving
//! memory just because a length field says so.
//!
//! Each target starts from valid files and changes them in ways that break parsers. The tests are a short, seeded run;
//! `make fuzz` runs each target for a minute, from another seed each time. The last input of a target that fails is
//! left in `target/tmp/fuzz`, to be examined.

use std::alloc::System;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use cap::Cap;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vqa_data::features::{Check, Collection, ElementType, FeatureFile, Output, RegionSource};
use vqa_data::files::IfExists;
use vqa_data::questions::import::Import;
use vqa_data::questions::{
    AnswerDict, CountAnswers, WordDict, WordVectors, read_annotations, read_questions, read_results,
};

/// Allocating more bytes than this fails, and with it the test: no input is larger than a few kilobytes. What HDF5
/// itself allocates, in C, is not counted.
const MEMORY: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY);

/// Number of inputs in a short run.
const N_INPUTS: usize = 600;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h5").join(name)
}

/// Runs a target on changed files. `run` gets the path of each, which is called `name`.
fn fuzz(target: &str, name: &str, corpus: &[Vec<u8>], tokens: &[&str], run: impl Fn(&Path)) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    for bytes in corpus {
        fs::write(&path, bytes).unwrap();
        run(&path);
    }
    let time = std::env::var("VQA_FUZZ_SECONDS").ok().map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
    let seed = if time.is_some() { SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 } else { 1 };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let started = Instant::now();
    let mut n = 0;
    while time.map_or(n < N_INPUTS, |time| started.elapsed() < time) {
        fs::write(&path, mutate(corpus, tokens, &mut rng)).unwrap();
        run(&path);
        n += 1;
    }
    if time.is_some() {
        println!("{target}: {n} inputs, seed {seed}");
    }
    // Only inputs that fail are of interest.
    fs::remove_dir_all(&directory).unwrap();
}

/// One of the files with some changes.
fn mutate(corpus: &[Vec<u8>], tokens: &[&str], rng: &mut ChaCha8Rng) -> Vec<u8> {
    /// Values at which lengths and offsets are mishandled.
    const EXTREMES: [u64; 16] = [
        0,
        1,
        2,
        3,
        4,
        127,
        128,
        255,
        256,
        65_535,
        1 << 31,
        (1 << 32) - 1,
        1 << 40,
        1 << 60,
        i64::MAX as u64,
        u64::MAX,
    ];
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..6) {
        let len = bytes.len();
        let at = rng.random_range(0..=len);
        let end = (at + rng.random_range(0..64)).min(len);
        match rng.random_range(0..9) {
            0 if at < len => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < len => bytes[at] = rng.random(),
            2 => {
                let width = [1, 2, 4, 8][rng.random_range(0..4)];
                let number = EXTREMES[rng.random_range(0..EXTREMES.len())].to_le_bytes();
                let end = (at + width).min(len);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let at = rng.random_range(0..=len);
                bytes.splice(at..at, piece);
            }
            5 => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 if !tokens.is_empty() => {
                let token = tokens[rng.random_range(0..tokens.len())].as_bytes();
                let end = if rng.random() { at } else { (at + token.len()).min(len) };
                bytes.splice(at..end, token.iter().copied());
            }
            7 => {
                // The same byte many times: nested brackets, long numbers.
                let byte = if at < len { bytes[at] } else { b'[' };
                bytes.splice(at..at, std::iter::repeat_n(byte, rng.random_range(1..2000)));
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

const JSON: [&str; 14] = [
    "\"questions\":",
    "\"annotations\":",
    "{\"image_id\": ",
    "\"question_id\": 1",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "[",
    "{",
    "]}",
    "\"\\ud800\"",
    "\"",
    ",",
];

#[test]
fn questions() {
    let question = r#"{"image_id": 458752, "question": "What is \"this\" é?", "question_id": 458752000}"#;
    let corpus = [
        format!("{{\"info\": {{}}, \"questions\": [{question}, {question}]}}").into_bytes(),
        format!("{{\"questions\": [{}]}}", vec![question; 40].join(",\n")).into_bytes(),
        b"{\"questions\": []}".to_vec(),
    ];
    fuzz("questions", "q.json", &corpus, &JSON, |path| drop(read_questions(path)));
}

#[test]
fn annotations() {
    let annotation = r#"{"question_type": "what is", "multiple_choice_answer": "net",
        "answers": [{"answer": "net", "answer_confidence": "maybe", "answer_id": 1}, {"answer": "mesh"}],
        "image_id": 458752, "answer_type": "other", "question_id": 458752000}"#;
    let corpus = [
        format!("{{\"annotations\": [{annotation}, {annotation}]}}").into_bytes(),
        format!("{{\"annotations\": [{}], \"license\": 1}}", vec![annotation; 20].join(" ,")).into_bytes(),
    ];
    fuzz("annotations", "a.json", &corpus, &JSON, |path| drop(read_annotations(path)));
}

#[test]
fn results_and_dictionaries() {
    let corpus = [
        br#"[{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": "no"}]"#.to_vec(),
        br#"["yes", "no", "2", "caf\u00e9"]"#.to_vec(),
    ];
    fuzz("results", "r.json", &corpus, &JSON, |path| {
        drop(read_results(path));
        drop(WordDict::load(path));
        drop(AnswerDict::load(path, CountAnswers::Normalized));
    });
}

#[test]
fn word_vectors() {
    let corpus = [b"the 0.25 -1e-2 3\n's 1 2 3\ncat 4 5 6\n".to_vec(), b"2 3\nthe 1 2 3\ncat 4 5 6".to_vec()];
    let words = WordDict::from_questions(["the 's cat"]);
    fuzz("word_vectors", "glove.txt", &corpus, &["\n", " ", "1e39", "nan", "the"], |path| {
        drop(WordVectors::read(path, &words, &|_| {}));
    });
}

/// Opens and converts everything that can be found.
fn convert(input: &Path, out: &Path) {
    for check in [Check::Index, Check::Everything] {
        if let Ok(collection) = Collection::open(&[input.to_owned()], check, &|_| {}) {
            let outputs = [Output { path: out.to_owned(), image_ids: None, if_exists: IfExists::Replace }];
            let converted = collection.convert(&outputs, ElementType::F32, None, &|_| {});
            if converted.is_ok() {
                let file = FeatureFile::open(out).expect("a file that was just written");
                assert_eq!(file.n_images(), collection.n_images());
            }
        }
    }
}

#[test]
fn tsv() {
    let corpus = ["fixed.tsv", "adaptive.tsv", "lxmert.tsv", "bad.tsv"].map(|name| fs::read(fixture(name)).unwrap());
    let tokens = ["\t", "\n", "\r\n", "=", "4294967295", "18446744073709551615", "-1", "\t0\t"];
    fuzz("tsv", "in.tsv", &corpus, &tokens, |path| convert(path, &path.with_file_name("out.h5")));
}

#[test]
fn npz() {
    let folder = fs::read_dir(fixture("npz")).unwrap();
    let corpus: Vec<Vec<u8>> = folder.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    let tokens =
        ["'shape': (", "99999999999,", "'<f4'", "'|O'", "'fortran_order': True", "x.npy", "bbox.npy", "PK\u{5}\u{6}"];
    fuzz("npz", "7.npz", &corpus, &tokens, |path| convert(path.parent().unwrap(), &path.with_file_name("out.h5")));
}

#[test]
fn pickle() {
    let corpus = ["pickle0", "pickle2", "pickle4", "bad"]
        .map(|name| fs::read(fixture(&format!("{name}_imgid2idx.pkl"))).unwrap());
    let features = fs::read(fixture("no_ids.h5")).unwrap();
    fuzz("pickle", "f_imgid2idx.pkl", &corpus, &["I1\n", "L1L\n", "(d", "s.", "p0\ng0\n"], |path| {
        let h5 = path.with_file_name("f.h5");
        fs::write(&h5, &features).unwrap();
        drop(FeatureFile::open(&h5));
    });
}

/// A list of ten copies of a list of ten copies and so on: small in the file, and it must not become large in memory.
#[test]
fn pickle_of_copies_of_copies() {
    let directory = tempfile::tempdir().unwrap();
    let h5 = directory.path().join("f.h5");
    fs::copy(fixture("no_ids.h5"), &h5).unwrap();
    // Protocol 2: a list, memoised as 0, holds an integer; each further list, memoised as i, holds ten times the one
    // before.
    let mut bomb = b"\x80\x02]q\x00K\x01a".to_vec();
    for i in 1..30u8 {
        bomb.extend_from_slice(&[b']', b'q', i, b'(']);
        (0..10).for_each(|_| bomb.extend_from_slice(&[b'h', i - 1]));
        bomb.push(b'e');
    }
    bomb.push(b'.');
    for bomb in [bomb.clone(), [b"\x80\x02}q\x63K\x01".as_slice(), &bomb[2..bomb.len() - 1], b"s."].concat()] {
        fs::write(directory.path().join("f_imgid2idx.pkl"), bomb).unwrap();
        let error = FeatureFile::open(&h5).unwrap_err().to_string();
        assert!(error.contains("f_imgid2idx.pkl"), "{error}");
    }
}

#[test]
fn feature_files() {
    let names = [
        "f32.h5",
        "f16.h5",
        "gzip.h5",
        "chunked.h5",
        "adaptive.h5",
        "f64.h5",
        "userblock.h5",
        "empty.h5",
        "adaptive_gzip.h5",
    ];
    let corpus = names.map(|name| fs::read(fixture(name)).unwrap());
    fuzz("feature_files", "f.h5", &corpus, &[], |path| {
        let Ok(file) = FeatureFile::open(path) else { return };
        drop(file.table());
        drop(file.summarize(&|_| {}));
        drop(file);
        convert(path, &path.with_file_name("out.h5"));
    });
}

/// A directory with the pictures 1 to 9, and an import of one file with questions about them.
fn import(target: &str, corpus: &[Vec<u8>], tokens: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    fs::create_dir(&images).unwrap();
    (1..10).for_each(|picture| fs::write(images.join(format!("{picture}.jpg")), "").unwrap());
    fuzz(target, "data", corpus, tokens, |path| {
        let import = Import {
            files: vec![path.to_owned()],
            images: Some(images.clone()),
            out: directory.path().join("out"),
            val: Some(0.5),
            skip_bad: true,
            if_exists: IfExists::Replace,
            ..Import::default()
        };
        drop(import.run());
    });
}

#[test]
fn imported_texts() {
    let texts = [
        "question,answer,image\nwhat is it?,a cat,1\n\"how, many?\",\"['2', \"\"3\"\"]\",2.jpg\n",
        "\u{feff}Question;Answer;Image;split\r\nwhat?;\"a; b\";3;val\r\nwhy?;c;4;train\r\n",
        "what is on the desk in the image1 ?\ncup, pen\nhow many in the image2 ?\n2\n",
        r#"[{"question": "what?", "answer": ["a", {"answer": "b"}], "image": "1"}, {"question": "why?", "image": 2}]"#,
        "{\"question\": \"what?\", \"answer\": 2.0, \"image\": 1}\n{\"question\": \"q\", \"answer\": null, \"image\": 2}\n",
        r#"{"1": {"imageId": "1", "question": "what?", "answer": "a"}, "2": {"imageId": "2", "question": "b?"}}"#,
        r#"[{"id": 1, "qas": [{"question": "what?", "image_id": 1, "qa_id": 7, "answer": "a."}]}, {"qas": []}]"#,
        r#"{"info": {"version": "1"}, "questions": [{"image_filename": "1.jpg", "question": "b?", "answer": "a"}]}"#,
        r#"[{"question_id": 1, "image_id": 1, "question": "what?", "coco_split": "train2014"}]"#,
    ];
    import(
        "imported_texts",
        &texts.map(|text| text.as_bytes().to_vec()),
        &["\"", "[", "{", ",", ";", "\r\n", "null", "-1", "\\"],
    );
}

#[cfg(feature = "parquet")]
#[test]
fn imported_parquet() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parquet");
    let files = fs::read_dir(directory).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    import("imported_parquet", &files.collect::<Vec<_>>(), &["PAR1", "bytes", "path"]);
}
