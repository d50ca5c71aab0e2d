//! Tests that `bench_gpu` works, from its data to its table, at a size that takes seconds.

use std::path::Path;
use std::process::Command;

#[test]
fn a_tiny_run_on_the_cpu() {
    let libtorch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.libtorch");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench_gpu"));
    // Python takes three seconds to load torch.
    command.args(["--device", "cpu", "--tiny", "--precision", "tf32"]);
    // The model is tiny: more threads would only wait for each other.
    command.env("OMP_NUM_THREADS", "1");
    if libtorch.exists() {
        command.env("PYTHONPATH", libtorch);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .map(|row| row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    let what: Vec<&[&str]> = rows.iter().map(|row| &row[..3]).collect();
    assert_eq!(what, [["always", "tf32", "grouped"], ["never", "tf32", "grouped"]], "{table}");
    assert!(rows.iter().all(|row| row[3].ends_with(" s an epoch")), "{table}");
    if std::env::var_os("VQA_REQUIRE_PYTORCH").is_some() {
        assert!(rows.iter().all(|row| row.len() == 6 && row[5].ends_with(" x")), "{table}\n{said}");
    }
    assert!(said.contains("120 images put on the device"), "{said}");
}
