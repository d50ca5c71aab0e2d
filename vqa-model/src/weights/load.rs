//! Saves the weights of a model to a file, and loads them again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tch::Tensor;
use tch::nn::VarStore;
use vqa_data::message::counted;

use crate::error::{Error, Result};
use crate::weights::format::Format;
use crate::weights::safetensors::{Header, write_tensors};
use crate::weights::state_dict::{Ambiguous, COMPILED, Location, StateDict};
use crate::weights::stored::{StoredTensor, is_float};
use crate::weights::{pth, safetensors};

/// Writes a model's weights under their PyTorch names. The file is written completely or not at all.
///
/// # Errors
///
/// When the file cannot be written.
pub fn save_weights(vs: &VarStore, path: &Path, header: Header) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write_tensors(path, &tensors, header)
}

/// Loads weights into a model: the file must have every parameter, by name, and nothing else.
///
/// The file is a safetensors file, or was written by `torch.save` in any version of PyTorch, whatever its name: a
/// `state_dict`, a dictionary that contains one, or a pickled module. A prefix that all names share (`module.`,
/// `model.`) and the prefix that `torch.compile` inserts are removed; both forms of weight norm are understood; integer
/// tensors that the model does not have are ignored. What was adapted is logged.
///
/// # Errors
///
/// When the file is damaged, has a NaN or infinite weight, or belongs to another model: the message names what is
/// missing, what is left over and what has another shape. The model is then unchanged.
pub fn load_weights(vs: &VarStore, path: &Path) -> Result<()> {
    if let Some(adapted) = load(vs, path, "use the config and dictionaries that it was trained with")?.adapted {
        tracing::info!("{}: {adapted}", path.display());
    }
    Ok(())
}

/// The result of loading weights.
pub(crate) struct Loaded {
    /// How the state dict was adapted to the model, as text; `None` if it was not.
    pub(crate) adapted: Option<String>,
}

/// [`load_weights`] without logging; `remedy` says what to do about weights of another model.
pub(crate) fn load(vs: &VarStore, path: &Path, remedy: &str) -> Result<Loaded> {
    let stored = match Format::of(path)? {
        Format::Safetensors => safetensors::stored_tensors(path)?,
        Format::PyTorch => pth::stored_tensors(path)?,
    };
    let is_compiled = stored.iter().any(|tensor| tensor.name().split('.').any(|part| part == COMPILED));
    let variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
    let wanted: BTreeSet<String> = variables.keys().cloned().collect();
    let state_dict = StateDict::find(stored, &wanted).map_err(|ambiguous| choose(path, &ambiguous))?;
    check(path, &state_dict, &variables, remedy)?;

    let mut pairs = Vec::new();
    for (name, variable) in variables {
        let tensor = state_dict.tensors[&name].read(path)?.view(&variable.size()[..]);
        refuse_not_finite(path, &name, &tensor)?;
        pairs.push((variable, tensor));
    }
    tch::no_grad(|| pairs.into_iter().for_each(|(mut variable, tensor)| variable.copy_(&tensor)));
    Ok(Loaded { adapted: adapted(&state_dict, is_compiled) })
}

/// Checks that the names, shapes and types of a state dict match the model's.
fn check(path: &Path, state_dict: &StateDict, variables: &BTreeMap<String, Tensor>, remedy: &str) -> Result<()> {
    let of_another_shape = state_dict.tensors.iter().filter_map(|(name, stored)| {
        let here = variables[name].size();
        (!has_shape(stored, &here)).then(|| format!("{name} is {:?} in the file and {here:?} here", stored.shape))
    });
    let missing = state_dict.missing.iter().map(|name| format!("{name} is missing"));
    let left_over = state_dict.left_over.iter().map(|name| format!("{name} is not in this model"));
    let problems: Vec<String> =
        [first(missing), first(of_another_shape), first(left_over)].into_iter().flatten().collect();
    if !problems.is_empty() {
        let problems = problems.join("; ");
        let problem = format!("weights of another model: {problems}; {remedy}");
        return Err(Error::weights_mismatch(path, problem));
    }
    match state_dict.tensors.iter().find(|(name, stored)| is_float(variables[*name].kind()) && !stored.is_float()) {
        Some((_, stored)) => Err(stored.not_float(path)),
        None => Ok(()),
    }
}

/// Whether a tensor has this shape. PyTorch 0.3 had no scalars and wrote vectors of one value instead, which PyTorch
/// still accepts.
fn has_shape(stored: &StoredTensor, shape: &[i64]) -> bool {
    stored.shape == shape || (shape.is_empty() && stored.shape == [1])
}

/// Joins the first few problems of a kind, and says how many more there are; `None` if there are none.
fn first(problems: impl Iterator<Item = String>) -> Option<String> {
    const SHOWN: usize = 3;
    let mut problems: Vec<String> = problems.collect();
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// Returns the error for a file with several state dicts that fit.
fn choose(path: &Path, Ambiguous(places): &Ambiguous) -> Error {
    let names: Vec<String> = places
        .iter()
        .map(|Location { nesting, prefix }| format!("\"{}\"", without_dot(&format!("{nesting}{prefix}"))))
        .collect();
    let problem =
        format!("several state dicts in it fit, {}: save the one you want in a file of its own", names.join(" and "));
    Error::weights_mismatch(path, problem)
}

/// Describes how a state dict was adapted to the model, if it was.
fn adapted(state_dict: &StateDict, is_compiled: bool) -> Option<String> {
    let Location { nesting, prefix } = &state_dict.place;
    let mut adapted = Vec::new();
    if !nesting.is_empty() {
        adapted.push(format!("took the weights below \"{}\"", without_dot(nesting)));
    }
    if !prefix.is_empty() {
        adapted.push(format!("removed \"{prefix}\" from all names"));
    }
    if is_compiled {
        adapted.push(format!("removed \"{COMPILED}.\" from names"));
    }
    if let Some(name) = state_dict.left_over_integers.first() {
        adapted.push(format!("left out {} ({name})", counted(state_dict.left_over_integers.len(), "integer tensor")));
    }
    (!adapted.is_empty()).then(|| adapted.join(", "))
}

fn without_dot(nesting: &str) -> &str {
    nesting.strip_suffix('.').unwrap_or(nesting)
}

/// Refuses NaN and infinite weights: a model with a NaN would silently give the same answer to every question.
fn refuse_not_finite(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.isfinite().all().int64_value(&[]) != 0 {
        return Ok(());
    }
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
