//! Makes libtorch findable at run time, here and in the packages that depend on this one.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_LIB");
    // Without these it is a system-wide libtorch, or Python's, which torch-sys finds.
    if let Some(root) = std::env::var_os("LIBTORCH_LIB").or(std::env::var_os("LIBTORCH")) {
        let lib = PathBuf::from(root).join("lib");
        // Dependents read this as DEP_VQA_LIBTORCH_LIB: link arguments do not travel between packages.
        println!("cargo::metadata=lib={}", lib.display());
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
