//! Finds the tensors in a file that belong to a model. A state dict may be nested in dictionaries beside other things,
//! and its names may be prefixed with those of the modules that the model was wrapped in.

use std::collections::{BTreeMap, BTreeSet};

use crate::weights::stored::StoredTensor;

/// The state dict in a file, matched against a model.
pub(super) struct StateDict {
    /// Where it was found.
    pub(super) place: Location,
    /// The tensors that the model has too, by the model's names.
    pub(super) tensors: BTreeMap<String, StoredTensor>,
    /// Names that the model has and the state dict lacks.
    pub(super) missing: Vec<String>,
    /// Names that the state dict has and the model lacks, except for integers.
    pub(super) left_over: Vec<String>,
    /// The left-over integer tensors, such as `num_batches_tracked`: counters, never weights.
    pub(super) left_over_integers: Vec<String>,
}

/// Where a state dict is in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The keys of the dictionaries around it, each followed by a dot.
    pub(super) nesting: String,
    /// The prefix of all its names, relative to the model's.
    pub(super) prefix: String,
}

/// The places in a file that fit a model, if there are several.
#[derive(Debug)]
pub(super) struct Ambiguous(pub(super) Vec<Location>);

impl StateDict {
    /// Finds the state dict of a model with these names: the place where most of them are found with one prefix. All
    /// names in the same dictionary must have that prefix. Other dictionaries, such as an optimiser's, are ignored.
    ///
    /// # Errors
    ///
    /// When several places fit equally well.
    pub(super) fn find(stored: Vec<StoredTensor>, wanted: &BTreeSet<String>) -> Result<StateDict, Ambiguous> {
        let nestings = nestings(&stored);
        let mut tensors = by_plain_names(stored);
        let mut found: Vec<Found> =
            places(&tensors, wanted, &nestings).into_iter().map(|place| Found::at(place, &tensors, wanted)).collect();
        let n_fitting = found.iter().filter(|found| found.fits()).count();
        if n_fitting > 1 {
            return Err(Ambiguous(found.into_iter().filter(Found::fits).map(|found| found.place).collect()));
        }
        let best = found.iter().position(Found::fits).unwrap_or(0);
        let Found { place, missing, left_over, left_over_integers } = found.swap_remove(best);
        let start = place.start();
        let of_model = |name: &String| Some((name.clone(), tensors.remove(&format!("{start}{name}"))?));
        let tensors = wanted.iter().filter_map(of_model).collect();
        Ok(StateDict { place, tensors, missing, left_over, left_over_integers })
    }
}

impl Location {
    /// Returns the part before the model's names in the file.
    fn start(&self) -> String {
        format!("{}{}", self.nesting, self.prefix)
    }
}

/// A place, with what it lacks and what is left over there.
struct Found {
    place: Location,
    missing: Vec<String>,
    left_over: Vec<String>,
    left_over_integers: Vec<String>,
}

impl Found {
    fn at(place: Location, tensors: &BTreeMap<String, StoredTensor>, wanted: &BTreeSet<String>) -> Found {
        let start = place.start();
        let missing = wanted.iter().filter(|name| !tensors.contains_key(&format!("{start}{name}"))).cloned().collect();
        let is_left_over = |name: &str| {
            name.starts_with(&place.nesting) && !name.strip_prefix(&start).is_some_and(|name| wanted.contains(name))
        };
        let left_over = tensors.iter().filter(|(name, _)| is_left_over(name));
        let (integers, others): (Vec<_>, Vec<_>) = left_over.partition(|(_, tensor)| tensor.is_integer());
        let names = |tensors: Vec<(&String, _)>| tensors.into_iter().map(|(name, _)| name.clone()).collect();
        Found { missing, left_over: names(others), left_over_integers: names(integers), place }
    }

    fn fits(&self) -> bool {
        self.missing.is_empty() && self.left_over.is_empty()
    }
}

/// Returns the dictionaries that contain tensors, as their keys, each followed by a dot.
fn nestings(stored: &[StoredTensor]) -> BTreeSet<String> {
    let around = |tensor: &StoredTensor| {
        let n_around = tensor.keys.len().saturating_sub(1);
        (0..=n_around)
            .map(|depth| tensor.keys[..depth].iter().map(|key| format!("{key}.")).collect())
            .collect::<Vec<String>>()
    };
    stored.iter().flat_map(around).map(|nesting| plain_name(&nesting)).collect()
}

/// Returns the tensors by their [`plain_name`]s.
fn by_plain_names(mut stored: Vec<StoredTensor>) -> BTreeMap<String, StoredTensor> {
    // Tensors that already have a plain name come first, so that on a conflict they keep it.
    stored.sort_by_cached_key(|tensor| (plain_name(&tensor.name()) != tensor.name(), tensor.keys.clone()));
    let mut tensors = BTreeMap::new();
    for tensor in stored {
        let plain = plain_name(&tensor.name());
        // A second tensor with the same plain name keeps its own name, and so is left over.
        let name = if tensors.contains_key(&plain) { tensor.name() } else { plain };
        tensors.insert(name, tensor);
    }
    tensors
}

/// Returns the places where most of the wanted names are; if there are none, the root of the file.
fn places(
    tensors: &BTreeMap<String, StoredTensor>,
    wanted: &BTreeSet<String>,
    nestings: &BTreeSet<String>,
) -> Vec<Location> {
    /// Looking at more places that are equally good would take long, and not change that they are ambiguous.
    const ENOUGH: usize = 8;
    let longest = wanted.iter().map(String::len).max().unwrap_or(0);
    let mut n_found: BTreeMap<&str, usize> = BTreeMap::new();
    for name in tensors.keys() {
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
        for start in starts.filter(|&start| name.len() - start <= longest) {
            if wanted.contains(&name[start..]) {
                *n_found.entry(&name[..start]).or_default() += 1;
            }
        }
    }
    let most = n_found.values().copied().max().unwrap_or(0);
    let best = n_found.into_iter().filter(|&(_, n)| n == most).map(|(start, _)| start).take(ENOUGH);
    let place = |start: &str| {
        let nesting = nestings.iter().filter(|nesting| start.starts_with(*nesting)).max_by_key(|nesting| nesting.len());
        let nesting = nesting.cloned().unwrap_or_default();
        Location { prefix: start[nesting.len()..].to_owned(), nesting }
    };
    let places: Vec<Location> = best.map(place).collect();
    if places.is_empty() { vec![place("")] } else { places }
}

/// Removes from a name what `torch.compile` inserts, wherever the compiled module is; gives the two halves of a weight
/// norm the names that they had before `torch.nn.utils.parametrizations`.
fn plain_name(name: &str) -> String {
    let name = name.split('.').filter(|&part| part != COMPILED).collect::<Vec<_>>().join(".");
    let halves = |name: &str| {
        let (module, parameter) = name.rsplit_once("parametrizations.")?;
        let (parameter, half) = parameter.split_once('.')?;
        let half = match half {
            "original0" => "g",
            "original1" => "v",
            _ => return None,
        };
        Some(format!("{module}{parameter}_{half}"))
    };
    halves(&name).unwrap_or(name)
}

/// The name of the original module in the one that `torch.compile` creates.
pub(super) const COMPILED: &str = "_orig_mod";

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    /// A file with these names, in which a slash follows each key of a dictionary; names that end in "tracked" are
    /// integers.
    fn file(names: &[&str]) -> Vec<StoredTensor> {
        let tensor = |name: &&str| StoredTensor {
            keys: name.split('/').map(str::to_owned).collect(),
            shape: Vec::new(),
            kind: Some(if name.ends_with("tracked") { Kind::Int64 } else { Kind::Float }),
            dtype: String::new(),
            read: Box::new(|| Ok(Vec::new())),
        };
        names.iter().map(tensor).collect()
    }

    fn find(names: &[&str], wanted: &[&str]) -> Result<StateDict, Ambiguous> {
        StateDict::find(file(names), &wanted.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn one_nesting_and_one_prefix_are_taken_off() {
        for (names, nesting, prefix) in [
            (&["a.g", "b"][..], "", ""),
            (&["module.a.g", "module.b"], "", "module."),
            (&["net.model.a.g", "net.model.b"], "", "net.model."),
            (&["model_state/a.g", "model_state/b", "optimizer/state/0/step", "optimizer/a"], "model_state.", ""),
            (&["x/y.z/module.a.g", "x/y.z/module.b", "x/other"], "x.y.z.", "module."),
            // An entire module that was pickled: its children are dictionaries.
            (&["a/g", "b"], "", ""),
            (&["model/a/g", "model/b", "best"], "model.", ""),
            (&["_orig_mod.a.g", "_orig_mod.b"], "", ""),
            (&["module._orig_mod.a.g", "module._orig_mod.b"], "", "module."),
            (&["a._orig_mod.g", "b", "n_tracked"], "", ""),
        ] {
            let found = find(names, &["a.g", "b"]).unwrap();
            assert_eq!(found.place, Location { nesting: nesting.to_owned(), prefix: prefix.to_owned() }, "{names:?}");
            assert_eq!(found.tensors.into_keys().collect::<Vec<_>>(), ["a.g", "b"], "{names:?}");
            assert!(found.missing.is_empty() && found.left_over.is_empty(), "{names:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let found = find(&["module.a", "module.c", "d", "module.n_tracked"], &["a", "b"]).unwrap();
        assert_eq!(
            (&found.missing[..], &found.left_over[..]),
            (&["b".to_owned()][..], &["d".to_owned(), "module.c".to_owned()][..])
        );
        assert_eq!(found.left_over_integers, ["module.n_tracked"]);
        let found = find(&["x.c"], &["a"]).unwrap();
        assert_eq!((found.missing, found.left_over), (vec!["a".to_owned()], vec!["x.c".to_owned()]));
        // The same half of one weight, under both of its names.
        let found = find(&["weight_g", "parametrizations.weight.original0"], &["weight_g"]).unwrap();
        assert_eq!(found.left_over, ["parametrizations.weight.original0"]);
    }

    #[test]
    fn two_state_dicts_are_one_too_many() {
        let Err(Ambiguous(places)) = find(&["model/a", "ema/a", "step"], &["a"]) else { panic!("ambiguous") };
        assert_eq!(places.iter().map(Location::start).collect::<Vec<_>>(), ["ema.", "model."]);
        // Not ambiguous: one has more than the model.
        assert_eq!(find(&["model/a", "other/a", "other/b"], &["a"]).unwrap().place.nesting, "model.");
    }
}
