//! Wording that the messages of all crates share.

/// Returns a count with its noun: "1 image", "3 images".
pub fn counted(n: usize, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

/// Lists the smallest few ids, for a message.
pub(crate) fn first_few(ids: &mut [u64]) -> String {
    const FEW: usize = 5;
    ids.sort_unstable();
    let shown: Vec<String> = ids.iter().take(FEW).map(u64::to_string).collect();
    let more = if ids.len() > FEW { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Shortens a text to its first few characters, for a message.
pub(crate) fn shorten(text: &str) -> String {
    const FEW: usize = 20;
    text.chars().take(FEW).collect()
}

/// Rewords a parser's message for people who do not know Rust.
pub(crate) fn in_plain_words(message: &str) -> String {
    message.replace("expected u64", "expected a whole number").replace("expected a sequence", "expected a list")
}
