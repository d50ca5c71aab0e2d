//! A scanner for JSON of a known form, faster than a general parser.
//!
//! It supports no escapes, floats or nulls. Wherever it meets something unsupported or invalid, it gives up, and the
//! entry is parsed by serde, which supports everything and explains what is wrong. What the scanner accepts is exactly
//! what serde would have read.

/// A JSON text and how far it has been read.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0 }
    }

    /// Bytes scanned so far.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips white space and one of JSON's structural characters.
    fn mark(&mut self, mark: u8) -> Option<()> {
        self.skip_space();
        (self.peek() == Some(mark)).then(|| self.at += 1)
    }

    /// A string without escapes.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        self.mark(b'"')?;
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let len = plain_len(rest)?;
        self.at += len + 1;
        (rest[len] == b'"').then(|| &self.text[start..start + len])
    }

    /// A whole number that is not negative.
    pub(crate) fn number(&mut self) -> Option<u64> {
        self.skip_space();
        let start = self.at;
        let mut number: u64 = 0;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        (digits == "0" || !digits.is_empty() && !digits.starts_with('0')).then_some(number)
    }

    /// An object; `field` reads the value of a key.
    pub(crate) fn object(&mut self, mut field: impl FnMut(&mut Scanner<'a>, &'a str) -> Option<()>) -> Option<()> {
        self.mark(b'{')?;
        loop {
            let key = self.string()?;
            self.mark(b':')?;
            field(self, key)?;
            if self.mark(b',').is_none() {
                return self.mark(b'}');
            }
        }
    }

    /// A list that is not empty; `item` reads each item.
    pub(crate) fn list(&mut self, mut item: impl FnMut(&mut Scanner<'a>) -> Option<()>) -> Option<()> {
        self.mark(b'[')?;
        loop {
            item(self)?;
            if self.mark(b',').is_none() {
                return self.mark(b']');
            }
        }
    }
}

/// The first position from there on that is not JSON's white space.
pub(super) fn skip_space(bytes: &[u8], from: usize) -> usize {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let space = bytes[from.min(bytes.len())..].iter().take_while(is_space).count();
    from + space
}

/// Returns the number of bytes before the first quote, backslash or control character. Eight bytes are checked at a
/// time: strings are short, and setting up the usual vector search would cost more than it saves.
fn plain_len(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 128;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Sets the high bit of each byte below `n`. This is exact up to the first such byte, which is the one that
        // counts.
        let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
        let is_quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let is_backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = is_quote | is_backslash | below(word, u64::from(b' '));
        if found != 0 {
            return Some(8 * i + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
    Some(bytes.len() - rest.len() + found)
}

/// Stores the value of a field; `None` if it has one already.
pub(crate) fn once<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    if field.is_some() {
        return None;
    }
    *field = Some(value?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_known_is_given_up() {
        let string = |text| Scanner::new(text).string();
        assert_eq!(string(" \n\t\"é ☃\" "), Some("é ☃"));
        for bad in ["", "\"", "\"a", "\"a\\\"\"", "\"\n\"", "\"\u{1f}\"", "null", "'a'"] {
            assert_eq!(string(bad), None, "{bad}");
        }
        let number = |text| Scanner::new(text).number();
        assert_eq!((number(" 0"), number("18446744073709551615")), (Some(0), Some(u64::MAX)));
        for bad in ["", "-1", "01", "18446744073709551616", "x", "\u{b}1", "\u{0}1"] {
            assert_eq!(number(bad), None, "{bad}");
        }
        // The number ends before the point, where an object cannot continue.
        let mut n = None;
        assert_eq!(Scanner::new("{\"a\": 1.5}").object(|s, _| once(&mut n, s.number())), None);
    }

    proptest! {
        #[test]
        fn eight_bytes_at_a_time_find_what_one_at_a_time_finds(
            bytes in prop::collection::vec(any::<u8>(), 0..40), plain in any::<u8>()
        ) {
            let is_special = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < b' ';
            prop_assert_eq!(plain_len(&bytes), bytes.iter().position(is_special));
            // Mostly plain characters, as in most strings.
            let bytes: Vec<u8> = bytes.iter().map(|&byte| if byte < 240 { plain | 0x80 } else { byte - 240 }).collect();
            prop_assert_eq!(plain_len(&bytes), bytes.iter().position(is_special));
        }

        /// Compares with serde, on text that is nearly JSON.
        #[test]
        fn what_is_accepted_is_what_serde_reads(
            text in "[ \n\\[]?\\{ ?\"[ab]\" ?: ?[0-9]{1,3}[,}. ]\"?[ab\\\\]?\"?:? ?[0-9]{0,2}\\}?"
        ) {
            let mut fields: Vec<(String, u64)> = Vec::new();
            let mut scanner = Scanner::new(&text);
            let field = |s: &mut Scanner, key: &str| {
                fields.push((key.to_owned(), s.number()?));
                Some(())
            };
            if scanner.object(field).is_some() {
                let read: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&text[..scanner.offset()]).unwrap();
                for (key, value) in fields.iter().rev().take(1) {
                    prop_assert_eq!(read[key].as_u64(), Some(*value));
                }
            }
        }
    }
}
