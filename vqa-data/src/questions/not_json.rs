//! Messages about texts that are not the expected JSON: what is wrong, and what to do about it.

use std::path::Path;

use memchr::memchr_iter;
use serde::de::IgnoredAny;

use crate::error::{Error, Result};
use crate::files::kind::kind_of;

/// The error for a file whose `text` serde has rejected.
pub(super) fn explain(path: &Path, text: &[u8], source: serde_json::Error) -> Error {
    if let Some(kind) = kind_of(text) {
        return Error::wrong_format(path, kind.instead_of("JSON")).because(source);
    }
    if let Err(problem) = check_utf_8(text) {
        return Error::wrong_format(path, problem).because(source);
    }
    if source.is_eof() {
        return Error::Json { path: path.to_owned(), source };
    }
    if is_json_lines(text) {
        let problem = "JSON Lines, one value per line, instead of one list: `jq -s . FILE > LIST` converts it";
        return Error::wrong_format(path, problem).because(source);
    }
    let place = offset(text, &source);
    let problem = if let Some(name) = not_a_number(text, place) {
        format!(
            "{name}, which Python writes and JSON does not have: write the value that was meant (pandas turns \"None\" \
             and \"n/a\" into NaN, unless given keep_default_na=False), or leave the entry out"
        )
    } else if let Some(escape) = lone_surrogate(text, place).filter(|_| source.to_string().contains("hex escape")) {
        format!(
            "{escape} is half of a character (a lone surrogate), which is not valid text: write the file again with \
             the whole character, or without it"
        )
    } else {
        return Error::Json { path: path.to_owned(), source };
    };
    Error::damaged(path, format!("line {} column {}: {problem}", source.line(), source.column())).because(source)
}

/// Checks that a text is UTF-8. The error says where it is not.
fn check_utf_8(text: &[u8]) -> Result<(), String> {
    let Err(error) = std::str::from_utf8(text) else { return Ok(()) };
    let place = error.valid_up_to();
    let line = 1 + memchr_iter(b'\n', &text[..place]).count();
    Err(format!(
        "line {line}: the byte 0x{:02x} is not UTF-8: if it is Latin-1, convert it with `iconv -f latin1 -t utf-8`",
        text[place]
    ))
}

/// Whether there are several JSON values, one after the other.
fn is_json_lines(text: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let mut next_is_sound = || values.next().is_some_and(|value| value.is_ok());
    next_is_sound() && next_is_sound()
}

/// Where in the text serde stopped: at the offending byte or just after it.
fn offset(text: &[u8], error: &serde_json::Error) -> usize {
    let line_start = match error.line() {
        0 | 1 => 0,
        line => memchr_iter(b'\n', text).nth(line - 2).map_or(text.len(), |end| end + 1),
    };
    (line_start + error.column()).min(text.len())
}

/// Returns Python's name for a value that is not finite, if one stands where serde stopped.
fn not_a_number(text: &[u8], place: usize) -> Option<&'static str> {
    const NAMES: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    // serde stops at the first letter, or after the sign.
    let from = place.saturating_sub(2);
    let near = &text[from..text.len().min(place + NAMES[0].len())];
    let found = |name: &&str| {
        let start = near.windows(name.len()).position(|word| word == name.as_bytes());
        start.is_some_and(|start| from + start <= place)
    };
    NAMES.into_iter().find(found)
}

/// Returns the escape of half a character (a lone surrogate) just before the position where serde stopped, if any.
fn lone_surrogate(text: &[u8], place: usize) -> Option<String> {
    /// `\ud83d` and the beginning of another escape.
    const NEAR: usize = 13;
    let near = &text[place.saturating_sub(NEAR)..place];
    let is_half = |escape: &&[u8]| {
        let [b'\\', b'u', b'd' | b'D', half, rest @ ..] = escape else { return false };
        matches!(half.to_ascii_lowercase(), b'8'..=b'9' | b'a'..=b'f') && rest.iter().all(u8::is_ascii_hexdigit)
    };
    near.windows(6).find(is_half).map(|escape| String::from_utf8_lossy(escape).into_owned())
}
