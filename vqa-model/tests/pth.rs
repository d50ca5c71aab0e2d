//! PyTorch's own files: some that PyTorch 2.11 wrote (`data/make_fixtures.py`), and damaged ones.

use std::alloc::System;
use std::io::Write;
use std::path::{Path, PathBuf};

use cap::Cap;
use tch::nn::{self, VarStore};
use tch::{Device, Kind, Tensor};
use vqa_model::weights::{Header, load_weights, read_header, save_weights};

/// The limit on allocated memory, beyond which the test fails: no file here is larger than a few megabytes. libtorch's
/// own allocations are not counted.
const MEMORY: usize = 1 << 30;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY);

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
}

#[test]
fn what_cannot_be_used_is_named() {
    let other = error("plain.pth", 5);
    assert!(other.contains("layer.bias is [3] in the file and [5] here"), "{other}");
    assert!(error("integers.pth", 3).contains("\"layer.bias\" is I64, not a float type"));
    assert!(error("empty.pth", 3).contains("no tensors in it"));
    assert!(error("nowhere.pth", 3).contains("no such file"));
}

/// A pickle may name any Python function to be called with any arguments. This program does not call it.
#[test]
fn code_in_a_file_is_not_run() {
    let missing = error("evil.pth", 3);
    assert!(
        missing.contains("layer.bias is missing") || missing.contains("not a complete PyTorch state_dict"),
        "{missing}"
    );
    error("evil_pickle.pth", 3);
    assert!(!Path::new("evil_was_here").exists() && !fixture("evil_was_here").exists());
}

/// A pickle after the headers of PyTorch's older format.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let headers: [&[u8]; 3] = [
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}X\x0d\0\0\0little_endian\x88s.",
    ];
    [&headers.concat(), pickle, b"\x80\x02]."].concat()
}

/// A zip archive as `torch.save` writes it, but compressed, with this pickle and the values of storage 0.
fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in [("model/data.pkl", pickle), ("model/data/0", storage)] {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(name, options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn refused(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.pth");
    std::fs::write(&path, bytes).unwrap();
    load_weights(&model(3), &path).unwrap_err().to_string()
}

/// Millions of nested lists, in every encoding. Python refuses them too.
#[test]
fn deep_nesting_is_an_error() {
    const DEEP: usize = 2_000_000;
    let whole = |parts: &[&[u8]]| parts.concat();
    for pickle in [
        whole(&[b"\x80\x02", &b"]".repeat(DEEP), &b"a".repeat(DEEP - 1), b"."]),
        whole(&[b"\x80\x02N", &b"\x85".repeat(DEEP), b"."]),
        whole(&[b"\x80\x02", &b"(".repeat(DEEP), &b"l".repeat(DEEP), b"."]),
        whole(&[b"\x80\x02", &b"}K\x00".repeat(DEEP / 2), b"N", &b"s".repeat(DEEP / 2), b"."]),
    ] {
        for bytes in [legacy(&pickle), archive(&pickle, &[]), pickle] {
            let error = refused(&bytes);
            assert!(error.contains("nesting") || error.contains("larger than the file"), "{error}");
        }
    }
}

/// A pickle of {"layer.weight": a tensor, "layer.bias": a tensor} with these shapes and strides, in a storage that
/// claims to have `n_values`.
fn state_dict(n_values: i64, weight: [[i64; 2]; 2], bias: [[i64; 1]; 2]) -> Vec<u8> {
    let [weight, bias] = [tensor(n_values, &weight[0], &weight[1]), tensor(n_values, &bias[0], &bias[1])];
    [&b"\x80\x02}("[..], &text("layer.weight"), &weight, &text("layer.bias"), &bias, b"u."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor in storage 0, as part of a pickle.
fn tensor(n_values: i64, shape: &[i64], stride: &[i64]) -> Vec<u8> {
    let long = |value: i64| [&b"\x8a\x08"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i64]| [&b"("[..], &values.iter().flat_map(|&x| long(x)).collect::<Vec<u8>>(), b"t"].concat();
    let parts = [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &long(n_values),
        b"tQK\x00",
        &tuple(shape),
        &tuple(stride),
        b"\x89}tR",
    ];
    parts.concat()
}

/// Tensors of a few bytes each, whose names consist of a thousand keys or are a megabyte long.
#[test]
fn many_tensors_with_long_names_are_an_error() {
    const DEEP: usize = 900;
    let tensors = [&tensor(1, &[1], &[1])[..], b"q\x01", &b"h\x01".repeat(300_000)].concat();
    let lists = [&b"]".repeat(DEEP)[..], b"(", &tensors, b"e", &b"a".repeat(DEEP - 1)].concat();
    let error = refused(&legacy(&[b"\x80\x02", &lists[..], b"."].concat()));
    assert!(error.contains("nested too deep"), "{error}");
    let long_key = [&b"}"[..], &text(&"k".repeat(1 << 20)), b"](", &tensors, b"es"].concat();
    let error = refused(&legacy(&[b"\x80\x02", &long_key[..], b"."].concat()));
    assert!(error.contains("names that are too long"), "{error}");
}

/// Nothing is allocated only because a file claims a size.
#[test]
fn tensors_that_claim_more_than_is_there_are_errors() {
    const HUGE: i64 = 1 << 31;
    let (weight, bias) = ([[3, 4], [4, 1]], [[3], [1]]);
    let storage: Vec<u8> = (0..12u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    // The writer in this test is correct: an honest file is read.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.pth");
    std::fs::write(&path, archive(&state_dict(12, weight, bias), &storage)).unwrap();
    let vs = model(3);
    load_weights(&vs, &path).unwrap();
    assert_eq!(vs.variables()["layer.bias"], Tensor::from_slice(&[0f32, 1.0, 2.0]));

    let huge = [
        // The wrong shape, with strides of 0, so that the storage could hold all values.
        (state_dict(12, [[HUGE, 1], [0, 0]], bias), "is [2147483648, 1] in the file"),
        (state_dict(i64::MAX / 8, [[HUGE, HUGE / 4], [0, 0]], bias), "byte limit"),
        (state_dict(i64::MAX / 8, [[i64::MAX, i64::MAX], [0, 0]], bias), "overflow"),
        // The right shape, beyond the end of the storage.
        (state_dict(i64::MAX / 8, [[3, 4], [1 << 40, 1]], bias), "elements"),
        (state_dict(HUGE, [[3, 4], [1 << 26, 1]], bias), "elements"),
        (state_dict(12, [[3, 4], [4, 2]], bias), "elements"),
    ];
    for (pickle, words) in huge {
        let error = refused(&archive(&pickle, &storage));
        assert!(error.contains(words) && error.contains("model.pth"), "{error}");
        refused(&legacy(&pickle));
    }
    // Gigabytes of zeros in a few kilobytes: in a compressed pickle, and left out of a sparse file in a tar archive.
    let error = refused(&archive(&b"N".repeat(64 << 20), &[]));
    assert!(error.contains("model/data.pkl in it is larger than the file"), "{error}");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_path("storages").unwrap();
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize = *b"77777777777\0";
    gnu.sparse[0].offset = *b"77777777777\0";
    gnu.sparse[0].numbytes = *b"00000000000\0";
    header.set_cksum();
    let error = refused(&[&header.as_bytes()[..], &[0; 1024]].concat());
    assert!(error.contains("a tar archive with sparse files"), "{error}");
}

#[test]
fn safetensors_that_claim_more_than_is_there_are_errors() {
    let file = |len: u64, json: &str| [&len.to_le_bytes()[..], json.as_bytes()].concat();
    let tensor = |shape: &str, end: u64| {
        let tensor = format!(r#"{{"layer.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        file(tensor.len() as u64, &tensor)
    };
    for bytes in [
        file(1 << 40, "{}"),
        file(99_999_999, "{}"),
        file(8, &"{\"a\":".repeat(200_000)),
        file(1_000_000, &"{\"a\":".repeat(200_000)),
        file(1_000_000, &format!("{{\"__metadata__\":{}", "[".repeat(1 << 20))),
        tensor("[1099511627776]", 4 << 40),
        tensor("[18446744073709551615,18446744073709551615]", 4),
        tensor("[3,4]", 48),
    ] {
        let error = refused(&bytes);
        assert!(error.contains("not a complete safetensors file"), "{error}");
    }
}

/// Files that are cut short, have changed bytes, or consist of random bytes give an error or other values, but never a
/// crash. VQA_FUZZ_SECONDS makes the search longer.
#[test]
fn damaged_files_are_errors() {
    let seconds = std::env::var("VQA_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let started = std::time::Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.pth");
    // The same files each time, except in a long search.
    let mut state = if seconds > 0.0 { std::process::id().into() } else { 1u64 };
    let mut random = |n: usize| {
        state = vqa_data::random::split_mix_64(state);
        (state % n as u64) as usize
    };
    let safetensors = directory.path().join("model.safetensors");
    save_weights(&model(3), &safetensors, Header::from([("epoch".to_owned(), "1".to_owned())])).unwrap();
    let names = ["plain.pth", "legacy.pth", "checkpoint.pth"].map(fixture).into_iter().chain([safetensors]);
    let names: Vec<PathBuf> = names.collect();
    for (place, name) in names.iter().enumerate() {
        let whole = std::fs::read(name).unwrap();
        let name = name.display();
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
            let _ = read_header(&path);
            let read = load_weights(&model(3), &path);
            if round % 3 == 0 {
                assert!(read.is_err() || bytes == whole, "{name}: cut to {} bytes", bytes.len());
            }
        }
    }
    for _ in 0..300 {
        // The first bytes of a pickle or an archive, followed by random bytes.
        let mut bytes = [&b"\x80\x02}"[..], b"PK\x03\x04", b"", b"\x80\x02]q\x00"][random(4)].to_vec();
        bytes.extend((0..random(300)).map(|_| random(256) as u8));
        std::fs::write(&path, &bytes).unwrap();
        assert!(load_weights(&model(3), &path).is_err());
    }
}
