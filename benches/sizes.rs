//! How much data a bench makes.

/// As many as are worth a measurement under `cargo bench`, and as few as show that it works under `cargo test`.
pub fn measured_or_tested(measured: usize, tested: usize) -> usize {
    // Cargo's word to Criterion.
    if std::env::args().any(|argument| argument == "--bench") { measured } else { tested }
}
