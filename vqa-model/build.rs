//! Lets this package and those that depend on it find libtorch at run time.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_LIB");
    // Without these variables, torch-sys finds a system-wide libtorch or Python's.
    if let Some(root) = std::env::var_os("LIBTORCH_LIB").or(std::env::var_os("LIBTORCH")) {
        let lib = PathBuf::from(root).join("lib");
        // Dependents read this as DEP_VQA_LIBTORCH_LIB, since link arguments are not passed on between packages.
        println!("cargo::metadata=lib={}", lib.display());
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
