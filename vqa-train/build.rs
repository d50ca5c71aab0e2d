//! Makes the libtorch that `vqa-model` was built with findable at run time.

fn main() {
    if let Some(lib) = std::env::var_os("DEP_VQA_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
