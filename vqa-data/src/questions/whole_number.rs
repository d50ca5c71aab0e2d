//! Whole numbers, in the forms in which programs write them to JSON.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

/// A non-negative whole number, in any of the forms `9`, `9.0` (pandas turns a column with a gap in it into floats),
/// `"9"` and `"000000000009"` (a column of text).
pub(super) struct WholeNumber(pub(super) u64);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WholeNumber, D::Error> {
        deserializer.deserialize_any(Forms).map(WholeNumber)
    }
}

/// For fields: `#[serde(deserialize_with = "whole_number")]`.
pub(super) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    WholeNumber::deserialize(deserializer).map(|WholeNumber(number)| number)
}

/// Parses a text of digits as a whole number.
pub(super) fn whole_number_of(text: &str) -> Option<u64> {
    // `parse` would accept a sign too.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

struct Forms;

impl Visitor<'_> for Forms {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
        /// Above this, doubles skip whole numbers.
        const LARGEST: f64 = (1u64 << 53) as f64;
        let is_whole = number.fract() == 0.0 && (0.0..=LARGEST).contains(&number);
        if is_whole { Ok(number as u64) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        whole_number_of(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_whole_number() {
        let read = |text: &str| serde_json::from_str(text).map(|WholeNumber(number)| number);
        for text in ["9", "9.0", "0.9e1", "\"9\"", "\"000000000009\""] {
            assert_eq!(read(text).unwrap(), 9, "{text}");
        }
        assert_eq!(read("18446744073709551615").unwrap(), u64::MAX);
        assert_eq!(read("\"18446744073709551615\"").unwrap(), u64::MAX);
        assert_eq!(read("9007199254740992.0").unwrap(), 1 << 53);
        let others =
            ["-1", "9.5", "1e300", "-9.0", "\"\"", "\"9.0\"", "\"+9\"", "\" 9\"", "\"٩\"", "null", "true", "[9]"];
        for text in others {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("expected a whole number"), "{text}: {error}");
        }
    }
}
