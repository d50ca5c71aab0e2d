//! Python 3's text methods, reproduced exactly, where they differ from Rust's.
//!
//! The Unicode version is 14.0, that of Python 3.11: characters that have gained a case since then count as caseless.

use std::borrow::Cow;

/// `str.isspace`: Rust's white space, plus ASCII's four separators.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split()`.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `\d` of `re`: the decimal digits of all scripts, but not `²` or `Ⅳ`.
pub(crate) fn is_digit(character: char) -> bool {
    /// `[c for c in map(chr, range(0x110000)) if c.isdecimal() and int(c) == 0]`. The nine other digits follow each
    /// zero.
    const ZEROS: [u32; 66] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
        0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
        0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
        0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
        0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
    ];
    let code = character as u32;
    let n_zeros = ZEROS.partition_point(|&zero| zero <= code);
    n_zeros > 0 && code - ZEROS[n_zeros - 1] < 10
}

/// `str.lower()`. A capital sigma at the end of a word becomes `ς`.
pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    const SIGMA: char = 'Σ';
    if text.is_ascii() {
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        return if is_lower { text.into() } else { text.to_ascii_lowercase().into() };
    }
    let mut lower = String::with_capacity(text.len());
    for (i, character) in text.char_indices() {
        match character {
            SIGMA if ends_word(&text[..i], &text[i + SIGMA.len_utf8()..]) => lower.push('ς'),
            _ if is_newer(character) => lower.push(character),
            _ => lower.extend(character.to_lowercase()),
        }
    }
    lower.into()
}

/// Unicode's condition `Final_Sigma`: a cased character before and none after, ignoring case-ignorable characters.
fn ends_word(before: &str, behind: &str) -> bool {
    fn begins_cased(mut characters: impl Iterator<Item = char>) -> bool {
        characters.find(|&character| !is_case_ignorable(character)).is_some_and(is_cased)
    }
    begins_cased(before.chars().rev()) && !begins_cased(behind.chars())
}

/// Unicode's `Cased`: lower, upper or title case.
fn is_cased(character: char) -> bool {
    let is_title = || !character.to_lowercase().eq([character]) && !character.to_uppercase().eq([character]);
    // Unicode 17 no longer counts this letter as lower case.
    character == 'ʕ' || !is_newer(character) && (character.is_lowercase() || character.is_uppercase() || is_title())
}

/// Unicode's `Case_Ignorable`. Rust has the table but does not expose it, so this tests whether Rust looks past the
/// character when it lower-cases a sigma.
fn is_case_ignorable(character: char) -> bool {
    let sees_past = |text: [char; 4]| String::from_iter(text).to_lowercase().contains('σ');
    let is_ignored =
        || sees_past(['Α', 'Σ', character, 'Α']) && String::from_iter([character, 'Σ']).to_lowercase().ends_with('σ');
    // Unicode 16 no longer counts this character as case-ignorable.
    character == '\u{1171e}' || !is_newer(character) && !character.is_ascii_alphanumeric() && is_ignored()
}

/// Whether a character is cased or case-ignorable only in versions of Unicode after 14.0.
fn is_newer(character: char) -> bool {
    /// First and last of each range. A range may span characters that are neither in any version.
    const NEWER: [(u32, u32); 23] = [
        (0x897, 0x897),
        (0xece, 0xece),
        (0x1acf, 0x1aeb),
        (0x1c89, 0x1c8a),
        (0xa7cb, 0xa7cf),
        (0xa7d2, 0xa7d2),
        (0xa7d4, 0xa7d4),
        (0xa7da, 0xa7f1),
        (0x10d4e, 0x10d85),
        (0x10ec5, 0x10eff),
        (0x11241, 0x11241),
        (0x113bb, 0x113e2),
        (0x11b60, 0x11b66),
        (0x11dd9, 0x11dd9),
        (0x11f00, 0x11f5a),
        (0x13439, 0x13455),
        (0x1611e, 0x1612f),
        (0x16d40, 0x16d6c),
        (0x16ea0, 0x16ed3),
        (0x16ff2, 0x16ff3),
        (0x1df25, 0x1df2a),
        (0x1e030, 0x1e08f),
        (0x1e4eb, 0x1e6ff),
    ];
    let code = character as u32;
    let n_before = NEWER.partition_point(|&(first, _)| first <= code);
    n_before > 0 && code <= NEWER[n_before - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from Python 3.11. Every character is compared in `tests/official_evaluator.rs`.
    #[test]
    fn agrees_with_python() {
        for (text, expected) in [
            ("ΟΔΟΣ", "οδος"),
            ("ΣΑΣ ΣΑΣ.", "σας σας."),
            ("ΑΣ'Α ΑΣ' Σ", "ασ'α ας' σ"),
            ("İI", "i\u{307}i"),
            ("ǅΣ", "ǆς"),
            ("\u{a7cb}Σ", "\u{a7cb}σ"),
            ("ʕΣ ΑΣʕ", "ʕς ασʕ"),
        ] {
            assert_eq!(lower(text), expected, "{text}");
        }
        assert_eq!(split(" a\u{1c}b\u{85}c\u{3000}d\u{200b} ").collect::<Vec<_>>(), ["a", "b", "c", "d\u{200b}"]);
        assert_eq!(strip("\u{1f} a \u{2028}"), "a");
        for (character, expected) in [('9', true), ('٣', true), ('𝟗', true), ('²', false), ('Ⅳ', false), ('½', false)]
        {
            assert_eq!(is_digit(character), expected, "{character}");
        }
    }
}
