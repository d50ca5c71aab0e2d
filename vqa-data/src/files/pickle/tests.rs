//! Pickles that Python wrote, ones that it would not write, and ones that attack.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use proptest::prelude::*;

use super::{Pickle, Value, is_pickle};

/// Returns the pickles of a value, one for each of Python's protocols.
pub(crate) fn pickles(name: &str) -> Vec<Vec<u8>> {
    let all: HashMap<String, Vec<String>> =
        serde_json::from_str(include_str!("../../../tests/data/pickles.json")).unwrap();
    let bytes = |hex: &String| -> Vec<u8> {
        hex.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    };
    let pickles: Vec<_> = all[name].iter().map(bytes).collect();
    assert_eq!(pickles.len(), 6, "protocols 0 to 5");
    assert!(pickles.iter().all(|pickle| is_pickle(pickle)));
    pickles
}

/// Shows a value with its content.
fn show(value: Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match (value.as_list(), value.as_dict()) {
        (Some(items), _) => format!("[{}]", list(items.map(show).collect())),
        (_, Some(entries)) => {
            format!("{{{}}}", list(entries.map(|(key, value)| format!("{}: {}", show(key), show(value))).collect()))
        }
        _ => value.to_string(),
    }
}

fn problem(bytes: &[u8]) -> String {
    Pickle::read(bytes).unwrap_err()
}

#[test]
fn dicts_of_numbers() {
    for name in ["dict", "ordered", "default", "counter", "numpy"] {
        for pickle in pickles(name) {
            let pickle = Pickle::read(&pickle).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            let entries = pickle.root().as_dict().unwrap();
            let numbers: Vec<_> = entries.map(|(key, value)| (key.as_int(), value.as_int())).collect();
            assert_eq!(numbers, [(Some(30), Some(2)), (Some(20), Some(1)), (Some(10), Some(0))], "{name}");
        }
    }
    for name in ["text_keys", "numpy_text"] {
        for pickle in pickles(name) {
            let pickle = Pickle::read(&pickle).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            assert_eq!(show(pickle.root()), r#"{"30": 2, "20": 1, "10": 0}"#, "{name}");
        }
    }
}

#[test]
fn texts_and_numbers() {
    let words = ["what", "'s", "café", "☃ 😀", "a\\u0041\\", "q\"'\n", ""];
    for pickle in pickles("label2ans") {
        let pickle = Pickle::read(&pickle).unwrap();
        assert_eq!(pickle.root().as_list().unwrap().map(Value::as_text).collect::<Vec<_>>(), words.map(Some));
    }
    for pickle in pickles("numbers") {
        let shown = show(Pickle::read(&pickle).unwrap().root());
        let expected = "[0, 1, -1, 255, 256, 65536, -2147483648, 2147483648, 9223372036854775807, \
             -9223372036854775808, 0.5, 9.0, True, False, None, 1 bytes, []]";
        assert_eq!(shown, expected);
    }
}

/// As Python 2 wrote them: its strings are bytes, and an OrderedDict is made of a list of pairs.
#[test]
fn pickles_of_python_2() {
    let strings = b"(lp1\n(dp2\nS'what'\np3\nI0\nsS'caf\\xc3\\xa9'\np4\nI1\nsa(lp5\ng3\nag4\naa.";
    let pickle = Pickle::read(strings).unwrap();
    assert_eq!(show(pickle.root()), r#"[{"what": 0, "café": 1}, ["what", "café"]]"#);
    let ordered = b"ccollections\nOrderedDict\np0\n((lp1\n(lp2\nL30L\naI2\naa(lp3\nI20\naI1\naatp4\nRp5\n.";
    assert_eq!(show(Pickle::read(ordered).unwrap().root()), "{30: 2, 20: 1}");
}

#[test]
fn what_is_no_data_is_refused() {
    let evil = problem(b"cos\nsystem\n(S'true'\ntR.");
    assert!(evil.starts_with("byte 21: it calls os.system, but only data is read"), "{evil}");
    // The name alone is a text like any other.
    assert_eq!(Pickle::read(b"cos\nsystem\n.").unwrap().root().to_string(), "os.system");
    for (bytes, words) in [
        (&b""[..], "ends in the middle"),
        (b"\x80\x04}\x94(K", "ends in the middle"),
        (b"X\xff\xff\xff\x7fabc", "ends in the middle"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "ends in the middle"),
        (b"\x80\x09.", "protocol is 9"),
        (b".", "not a valid pickle"),
        (b"e.", "not a valid pickle"),
        (b"(000.", "not a valid pickle"),
        (b"h\x07.", "not a valid pickle"),
        (b"(K\x01d.", "not a valid pickle"),
        (b"}K\x01a.", "not a valid pickle"),
        (b"K\x01)R.", "not a valid pickle"),
        (b"\x8a\x09\0\0\0\0\0\0\0\x80\0.", "too large"),
        (b"I12x\n.", "too large, or not a number"),
        (b"X\x01\0\0\0\xff.", "not valid Unicode"),
        (b"\x8f.", "a set"),
        (b"c__main__\nThing\n)\x81}b.", "it calls __main__.Thing"),
        (b"(i__main__\nThing\n.", "an object"),
        (b"~", "0x7e is not a pickle instruction"),
    ] {
        let problem = problem(bytes);
        assert!(problem.contains(words) && problem.starts_with("byte "), "{bytes:?}: {problem}");
    }
}

/// Nested to any depth, on one thread's stack: lists, tuples, dicts, and one that holds itself.
#[test]
fn nesting_takes_no_stack() {
    const DEEP: usize = 1 << 20;
    for (open, close) in [(&b"]"[..], &b"a"[..]), (b"(", b"t"), (b"K\x01", b"\x85"), (b"}K\x01", b"s")] {
        let middle: &[u8] = if close == b"\x85" { b"" } else { b"N" };
        let deep = [open.repeat(if close == b"\x85" { 1 } else { DEEP }).as_slice(), middle, &close.repeat(DEEP), b"."]
            .concat();
        drop(Pickle::read(&deep).unwrap().root().to_string());
    }
    let pickle = Pickle::read(b"]q\0h\0a.").unwrap();
    assert_eq!(pickle.root().as_list().unwrap().next().unwrap().to_string(), "a list of 1");
}

/// Small files that would become large values stay small, or are refused.
#[test]
fn what_is_used_often_is_there_once() {
    // A list of ten times a list of ten times a list …
    let mut bomb = b"]q\0K\x01a".to_vec();
    for i in 1..100 {
        bomb.extend_from_slice(&[b']', b'q', i, b'(']);
        (0..10).for_each(|_| bomb.extend_from_slice(&[b'h', i - 1]));
        bomb.push(b'e');
    }
    bomb.push(b'.');
    assert!(Pickle::read(&bomb).is_ok());
    // The bytes of a long text, and a dict of a long list, a thousand times each.
    let text = [&b"c_codecs\nencode\nq\0X\0\x10\0\0"[..], &[b'a'; 4096], b"q\x01X\x06\0\0\0latin1q\x02"].concat();
    let again = [&text[..], &b"h\0h\x01h\x02\x86R".repeat(1000), b"."].concat();
    assert!(problem(&again).contains("would expand to something large"));
    let list = [&b"ccollections\nCounter\nq\0]q\x01("[..], &b"K\x01K\x02\x86".repeat(1000), b"e"].concat();
    let again = [&list[..], &b"h\0h\x01\x85R".repeat(1000), b"."].concat();
    assert_eq!(Pickle::read(&again).unwrap().root().as_dict().unwrap().len(), 1000);
}

/// Pickles that the installed Python writes, of random values.
#[test]
fn whatever_python_writes_is_read() {
    const SCRIPT: &str = r#"
import json, pickle, random
from collections import OrderedDict, defaultdict
random.seed(1)
letters = "abc 'é\\\"\n☃😀\u0000"
text = lambda: "".join(random.choice(letters) for _ in range(random.randrange(300)))
number = lambda: random.choice([1, -1]) * random.getrandbits(random.randrange(1, 63))
for _ in range(100):
    kind = random.choice([dict, OrderedDict, lambda entries: defaultdict(list, entries)])
    either = lambda: random.choice([text, number])()
    entries = kind({either(): either() for _ in range(random.randrange(40))})
    for protocol in range(6):
        print(json.dumps([pickle.dumps(entries, protocol).hex(), [[str(k), str(v)] for k, v in entries.items()]]))
"#;
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = match Command::new(&python).args(["-c", SCRIPT]).output() {
        Ok(output) if output.status.success() => output,
        other => {
            assert!(std::env::var_os("VQA_REQUIRE_PYTORCH").is_none(), "{python} does not run: {other:?}");
            return eprintln!("skipped: no Python");
        }
    };
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 600);
    for line in lines.lines() {
        let (hex, expected): (String, Vec<(String, String)>) = serde_json::from_str(line).unwrap();
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let pickle = Pickle::read(&bytes).unwrap_or_else(|problem| panic!("{problem}: {hex}"));
        let text = |value: Value| value.as_text().map_or_else(|| value.as_int().unwrap().to_string(), str::to_owned);
        let found: Vec<_> = pickle.root().as_dict().unwrap().map(|(key, value)| (text(key), text(value))).collect();
        assert_eq!(found, expected);
    }
}

proptest! {
    /// Altered pickles and noise give a value or a problem, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        which in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..60)
    ) {
        let names = ["dict", "ordered", "default", "numpy", "numpy_text", "dictionary", "numbers"];
        let mut all: BTreeMap<usize, Vec<u8>> = names.into_iter().flat_map(pickles).enumerate().collect();
        let bytes = all.get_mut(&which.index(names.len() * 6)).unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for bytes in [bytes, &noise] {
            if let Ok(pickle) = Pickle::read(bytes) {
                let _ = (pickle.root().to_string(), pickle.root().as_list().map(Iterator::count));
            }
        }
    }
}
