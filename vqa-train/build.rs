//! Lets this package find, at run time, the libtorch that `vqa-model` was built with.

fn main() {
    if let Some(lib) = std::env::var_os("DEP_VQA_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
