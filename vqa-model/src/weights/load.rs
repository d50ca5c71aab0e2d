//! Weights of a model, to a file and back.

use std::collections::HashMap;
use std::path::Path;

use tch::Tensor;
use tch::nn::VarStore;

use crate::error::{Error, Result};
use crate::weights::pth::{is_pth, read_pth};
use crate::weights::safetensors::{Header, read_tensors, write_tensors};

/// Writes a model's weights, by their PyTorch names, whole or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn save_weights(vs: &VarStore, path: &Path, header: Header) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write_tensors(path, &tensors, header)
}

/// Reads weights into a model: every parameter, by name, and nothing else. A file named `.pth`, `.pt` or `.bin` is one
/// of PyTorch's ([`read_pth`]), any other safetensors.
///
/// # Errors
///
/// When the file is damaged, has a NaN or infinite weight, or is of another model: the message names what is missing,
/// what is left over and what has another shape. The model is then as it was.
pub fn load_weights(vs: &VarStore, path: &Path) -> Result<()> {
    let read = if is_pth(path) { read_pth } else { read_tensors };
    let mut found: HashMap<String, Tensor> = read(path)?.into_iter().collect();
    refuse_not_finite(path, &found)?;
    let mut pairs = Vec::new();
    let mut problems = Vec::new();
    let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, variable) in variables {
        match found.remove(&name) {
            Some(tensor) if tensor.size() == variable.size() => pairs.push((variable, tensor)),
            Some(tensor) => {
                problems.push(format!("{name} is {:?} in the file and {:?} here", tensor.size(), variable.size()));
            }
            None => problems.push(format!("{name} is missing")),
        }
    }
    let mut extra: Vec<String> = found.into_keys().collect();
    extra.sort();
    problems.extend(extra.into_iter().map(|name| format!("{name} is not in this model")));
    if problems.is_empty() {
        tch::no_grad(|| pairs.into_iter().for_each(|(mut variable, tensor)| variable.copy_(&tensor)));
        return Ok(());
    }
    const SHOWN: usize = 3;
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    let problems = problems.join("; ");
    Err(Error::weights_mismatch(
        path,
        format!("weights of another model: {problems}; use the config and dictionaries that it was trained with"),
    ))
}

/// A model with a NaN in it answers everything alike, and says nothing of it.
fn refuse_not_finite(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<()> {
    let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) != 0;
    let Some(name) = tensors.iter().filter(|(_, tensor)| !is_finite(tensor)).map(|(name, _)| name).min() else {
        return Ok(());
    };
    let problem = format!("\"{name}\" has NaN or infinite weights: take the checkpoint of an earlier epoch");
    Err(Error::DamagedWeights { path: path.to_owned(), problem, source: None })
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::Init;

    use super::*;

    #[test]
    fn weights_that_are_no_numbers_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let vs = VarStore::new(Device::Cpu);
        let good = (vs.root() / "a").var("weight", &[3], Init::Const(1.0));
        let bad = (vs.root() / "b").var("weight", &[3], Init::Const(1.0));
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let _ = tch::no_grad(|| bad.get(1).fill_(x));
            save_weights(&vs, &path, Header::new()).unwrap();
            let error = load_weights(&vs, &path).unwrap_err();
            assert!(matches!(error, Error::DamagedWeights { .. }));
            assert!(error.to_string().contains("model.safetensors: \"b.weight\" has NaN or infinite"), "{error}");
        }
        let _ = tch::no_grad(|| bad.get(1).fill_(2.0));
        save_weights(&vs, &path, Header::new()).unwrap();
        let _ = tch::no_grad(|| good.shallow_clone().zero_());
        load_weights(&vs, &path).unwrap();
        assert_eq!(good.double_value(&[1]), 1.0);
    }
}
