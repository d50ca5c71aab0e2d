//! Checks that there is a libtorch before the compiler fills the screen, and makes it findable at run time.

use std::path::Path;

/// The libtorch that the pinned `tch` accepts.
const VERSION: &str = "2.11.0";

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_LIB");
    println!("cargo::rerun-if-env-changed=LIBTORCH_BYPASS_VERSION_CHECK");
    let Some(root) = std::env::var_os("LIBTORCH").map(std::path::PathBuf::from) else {
        return; // A system-wide libtorch, or Python's: torch-sys finds it or says why not.
    };
    let lib = std::env::var_os("LIBTORCH_LIB").map_or(root.clone(), Into::into).join("lib");
    if !lib.join("libtorch_cpu.so").exists() && !lib.join("libtorch_cpu.dylib").exists() {
        println!(
            "cargo::error=there is no libtorch in {}: run `make setup`, or set LIBTORCH to the directory of libtorch {VERSION}",
            root.display()
        );
        std::process::exit(1);
    }
    if let Some(found) = version(&root)
        && found != VERSION
        && std::env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none()
    {
        println!(
            "cargo::error=the libtorch in {} is {found}, and {VERSION} is needed: run `make setup` with LIBTORCH unset, or set LIBTORCH to the directory of libtorch {VERSION}",
            root.display()
        );
        std::process::exit(1);
    }
    // Dependents read this as DEP_VQA_LIBTORCH_LIB: link arguments do not travel between packages.
    println!("cargo::metadata=lib={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// The version of a libtorch directory, without its local part: `2.11.0+cu130` is `2.11.0`. A zip from
/// PyTorch states it in `build-version`, a Python wheel in `version.py`.
fn version(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("build-version")).ok().or_else(|| {
        let module = std::fs::read_to_string(root.join("version.py")).ok()?;
        let line = module.lines().find(|line| line.starts_with("__version__"))?;
        Some(line.split(['\'', '"']).nth(1)?.to_owned())
    })?;
    Some(text.trim().split('+').next()?.to_owned())
}
