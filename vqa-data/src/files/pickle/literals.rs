//! Text as protocol 0 writes it: literals of Python source code.

/// The bytes of a literal like `'it\'s'`.
pub(super) fn string(literal: &[u8]) -> Option<Vec<u8>> {
    let [quote @ (b'\'' | b'"'), inner @ .., end] = literal else { return None };
    if quote != end {
        return None;
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, after) = rest.split_first()?;
        rest = after;
        bytes.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'\\' | b'\'' | b'"' => *escape,
            b'x' => {
                let digits = rest.split_at_checked(2)?;
                rest = digits.1;
                u8::from_str_radix(std::str::from_utf8(digits.0).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// The text of a line in the encoding `raw-unicode-escape`: Latin-1, and `\u` with four digits or `\U` with eight.
pub(super) fn raw_unicode(line: &[u8]) -> Option<String> {
    let mut units: Vec<u32> = Vec::with_capacity(line.len());
    let mut rest = line;
    while let [first, after @ ..] = rest {
        rest = after;
        let n_digits = match (first, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            (b'\\', Some(other)) => {
                units.extend([u32::from(b'\\'), u32::from(*other)]);
                rest = &rest[1..];
                continue;
            }
            _ => {
                units.push(u32::from(*first));
                continue;
            }
        };
        let (digits, after) = rest[1..].split_at_checked(n_digits)?;
        units.push(u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    // Python 2 may have written a character as two surrogates.
    let halves = units.iter().flat_map(|&unit| match char::from_u32(unit) {
        Some(character) => character.encode_utf16(&mut [0; 2]).to_vec(),
        None => vec![u16::try_from(unit).unwrap_or(0xd800)],
    });
    char::decode_utf16(halves).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_python() {
        assert_eq!(string(br"'it\'s \\ \n\xe9 a'").unwrap(), b"it's \\ \n\xe9 a");
        assert_eq!(string(br#""it's""#).unwrap(), b"it's");
        for bad in [&b"'a"[..], b"a", b"'a\"", b"'\\'", b"'\\x1'", b"'\\q'", b"", b"'"] {
            assert_eq!(string(bad), None, "{bad:?}");
        }
        assert_eq!(
            raw_unicode(b"caf\xe9 \\u2603 \\U0001f600 \\ud83d\\ude00 \\\\u0041 \\n").unwrap(),
            "café ☃ 😀 😀 \\\\u0041 \\n"
        );
        for bad in [&b"\\ud83d"[..], b"\\u12", b"\\uzzzz", b"\\U00110000"] {
            assert_eq!(raw_unicode(bad), None, "{bad:?}");
        }
    }
}
