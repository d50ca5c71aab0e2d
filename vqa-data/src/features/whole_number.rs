//! Whole numbers in text.

/// A whole number in decimal: `640`, or `640.0`, as pandas writes a column of integers in which one is missing.
pub(crate) fn whole_number(text: &str) -> Option<u64> {
    let digits = match text.split_once('.') {
        Some((digits, zeros)) if !zeros.is_empty() && zeros.bytes().all(|digit| digit == b'0') => digits,
        _ => text,
    };
    // Rust's parser would accept a sign too.
    if digits.bytes().all(|digit| digit.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_whole_where_they_are() {
        for (text, number) in [("640", 640), ("640.0", 640), ("007.000", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(whole_number(text), Some(number), "{text}");
        }
        for text in ["", ".", ".0", "5.", "5.5", "-1", "+1", "1e3", "nan", "inf", "18446744073709551616", "5.0.0"] {
            assert_eq!(whole_number(text), None, "{text}");
        }
    }
}
