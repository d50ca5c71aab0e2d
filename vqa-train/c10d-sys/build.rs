//! Compiles the shim against libtorch's headers.

use std::path::{Path, PathBuf};

/// The headers in `shim/gloo` replace those that this version was built with, and fit no other.
const LIBTORCH: &str = "2.11.0";

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let lib = PathBuf::from(std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is"));
    let include = lib.with_file_name("include");
    let version = version(&include.join("torch/headeronly/version.h"));
    assert!(
        version.as_deref() == Some(LIBTORCH),
        "{}: distributed training is written for libtorch {LIBTORCH}, and this is {}: \
         install torch=={LIBTORCH}, or build without the feature \"distributed\"",
        include.display(),
        version.as_deref().unwrap_or("none that says its version")
    );
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include("shim")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        // The shim only forwards calls.
        .opt_level(1)
        .debug(false)
        .file("shim/c10d.cpp")
        .compile("vqa_c10d");
}

/// Reads the version from the header's `#define TORCH_VERSION_MAJOR 2` and so on.
fn version(header: &Path) -> Option<String> {
    let text = std::fs::read_to_string(header).ok()?;
    let number = |part: &str| {
        let name = format!("#define TORCH_VERSION_{part} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).map(str::trim)
    };
    Some([number("MAJOR")?, number("MINOR")?, number("PATCH")?].join("."))
}
