//! PyTorch's own files: those that PyTorch 2.11 wrote (`data/make_fixtures.py`), and damaged ones.

use std::path::{Path, PathBuf};

use tch::nn::{self, VarStore};
use tch::{Device, Kind, Tensor};
use vqa_model::weights::{load_weights, read_pth};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn model(n_out: i64) -> VarStore {
    let vs = VarStore::new(Device::Cpu);
    let _ = nn::linear(vs.root() / "layer", 4, n_out, Default::default());
    vs
}

fn error(name: &str, n_out: i64) -> String {
    let vs = model(n_out);
    let before = vs.variables()["layer.weight"].copy();
    let error = load_weights(&vs, &fixture(name)).unwrap_err().to_string();
    assert_eq!(vs.variables()["layer.weight"], before, "{name}: the model is as it was");
    assert!(error.contains(name), "{error}");
    error
}

#[test]
fn every_form_that_pytorch_writes_is_read() {
    for name in ["plain.pth", "legacy.pth", "checkpoint.pth"] {
        let vs = model(3);
        load_weights(&vs, &fixture(name)).unwrap_or_else(|error| panic!("{error}"));
        let weight = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 4]) / 8;
        assert_eq!(vs.variables()["layer.weight"], weight, "{name}");
        assert_eq!(vs.variables()["layer.bias"], Tensor::from_slice(&[0.5f32, -1.0, 2.0]), "{name}");
    }
    let kinds = |name| read_pth(&fixture(name)).unwrap().iter().map(|(_, tensor)| tensor.kind()).collect::<Vec<_>>();
    assert_eq!(kinds("checkpoint.pth"), [Kind::BFloat16, Kind::Half]);
    assert_eq!(kinds("legacy.pth"), [Kind::Double, Kind::Float]);
}

#[test]
fn what_cannot_be_used_is_named() {
    let other = error("plain.pth", 5);
    assert!(other.contains("layer.bias is [3] in the file and [5] here"), "{other}");
    assert!(error("integers.pth", 3).contains("\"layer.bias\" is I64, and a float type is wanted"));
    assert!(error("empty.pth", 3).contains("no tensors in it"));
    assert!(error("nowhere.pth", 3).contains("no such file"));
}

/// A pickle may name any function of Python to be called with any arguments. Here it is not.
#[test]
fn code_in_a_file_is_not_run() {
    let missing = error("evil.pth", 3);
    assert!(missing.contains("layer.bias is missing") || missing.contains("not a whole state_dict"), "{missing}");
    error("evil_pickle.pth", 3);
    assert!(!Path::new("evil_was_here").exists() && !fixture("evil_was_here").exists());
}

/// Cut short, with bytes changed, and of bytes alone: an error or other numbers, and never a crash. For longer than a
/// moment with VQA_FUZZ_SECONDS.
#[test]
fn damaged_files_are_errors() {
    let seconds = std::env::var("VQA_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let started = std::time::Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.pth");
    // The same files each time, but for a long search.
    let mut state = if seconds > 0.0 { std::process::id().into() } else { 1u64 };
    let mut random = |n: usize| {
        state = vqa_data::random::split_mix_64(state);
        (state % n as u64) as usize
    };
    let names = ["plain.pth", "legacy.pth", "checkpoint.pth"];
    for (place, name) in names.into_iter().enumerate() {
        let whole = std::fs::read(fixture(name)).unwrap();
        let until = seconds * (place + 1) as f64 / names.len() as f64;
        for round in (0..).take_while(|&round| round < 600 || started.elapsed().as_secs_f64() < until) {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(random(whole.len())),
                1 => (0..=random(4)).for_each(|_| bytes[random(whole.len())] = random(256) as u8),
                _ => {
                    let (from, to, n) = (random(whole.len()), random(whole.len()), random(40));
                    let piece: Vec<u8> = whole.iter().copied().skip(from).take(n).collect();
                    bytes.splice(to..(to + n).min(whole.len()), piece);
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let read = read_pth(&path);
            if round % 3 == 0 {
                assert!(read.is_err() || bytes == whole, "{name}: cut to {} bytes", bytes.len());
            }
        }
    }
    for _ in 0..300 {
        // A pickle's or an archive's first bytes, and then anything.
        let mut bytes = [&b"\x80\x02}"[..], b"PK\x03\x04", b"", b"\x80\x02]q\x00"][random(4)].to_vec();
        bytes.extend((0..random(300)).map(|_| random(256) as u8));
        std::fs::write(&path, &bytes).unwrap();
        assert!(read_pth(&path).is_err());
    }
}
