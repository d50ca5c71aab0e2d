//! How much data a bench generates.

/// Returns `measured`, enough for a measurement, under `cargo bench`, and `tested`, enough to show that it works, under
/// `cargo test`.
pub fn measured_or_tested(measured: usize, tested: usize) -> usize {
    // The argument that Cargo passes to Criterion.
    if std::env::args().any(|argument| argument == "--bench") { measured } else { tested }
}
