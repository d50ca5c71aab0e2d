//! All parameters in one tensor, and their gradients in another.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

/// A model's parameters, moved into one flat tensor, and their gradients, moved into another. The model's own tensors
/// become views of these, so that clipping and stepping are each one pass over memory.
#[derive(Debug)]
pub(super) struct FlatParameters {
    /// In the order of their names.
    pub(super) ranges: Vec<FlatRange>,
    /// [n] float32.
    pub(super) values: Tensor,
    /// [n] float32.
    pub(super) gradients: Tensor,
}

/// The position of a parameter in the flat tensors.
#[derive(Debug)]
pub(super) struct FlatRange {
    pub(super) name: String,
    pub(super) start: i64,
    shape: Vec<i64>,
}

impl FlatRange {
    pub(super) fn len(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Returns the parameter's part of a flat tensor, in its shape.
    pub(super) fn of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.start, self.len()).view(&self.shape[..])
    }
}

impl FlatParameters {
    /// Moves these named parameters, float32 and all on one device. Those that need no gradient, such as a frozen layer
    /// or the running mean of a batch norm, stay where they are.
    pub(super) fn new(parameters: impl IntoIterator<Item = (String, Tensor)>) -> FlatParameters {
        /// Each parameter begins at a multiple of this many values, a cache line.
        const ALIGNED: usize = 16;
        let mut parameters: Vec<(String, Tensor)> =
            parameters.into_iter().filter(|(_, parameter)| parameter.requires_grad()).collect();
        // Sums over parameters must not depend on the order of a hash map.
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        let mut ranges = Vec::with_capacity(parameters.len());
        let mut n = 0;
        for (name, parameter) in &parameters {
            ranges.push(FlatRange { name: name.clone(), start: n as i64, shape: parameter.size() });
            n += parameter.numel().next_multiple_of(ALIGNED);
        }
        let device = parameters.first().map_or(Device::Cpu, |(_, parameter)| parameter.device());
        let zeros = || Tensor::zeros([n as i64], (Kind::Float, device));
        let (values, gradients) = (zeros(), zeros());
        for ((_, parameter), range) in parameters.iter_mut().zip(&ranges) {
            tch::no_grad(|| range.of(&values).copy_(parameter));
            parameter.set_data(&range.of(&values));
            // Only a backward pass creates a gradient tensor; later ones add to it in place.
            (&*parameter * 0.0).sum(Kind::Float).backward();
            parameter.grad().set_data(&range.of(&gradients));
        }
        FlatParameters { ranges, values, gradients }
    }

    /// Returns the ranges of the parameters in each group, with the group's index, in the order of the groups;
    /// parameters in no group come last. A group consists of the names' parts before the first dot. Adjacent parameters
    /// of a group are merged into one range.
    pub(super) fn parts(&self, groups: &[&[&str]]) -> Vec<(usize, Range<i64>)> {
        let n = self.gradients.size()[0];
        let ends = self.ranges.iter().skip(1).map(|range| range.start).chain([n]);
        let group_of = |name: &str| {
            let part = name.split('.').next().unwrap_or_default();
            groups.iter().position(|group| group.contains(&part)).unwrap_or(groups.len())
        };
        let mut parts: Vec<(usize, Range<i64>)> = Vec::new();
        for (range, end) in self.ranges.iter().zip(ends) {
            let group = group_of(&range.name);
            match parts.last_mut().filter(|(last, _)| *last == group) {
                Some((_, last)) => last.end = end,
                None => parts.push((group, range.start..end)),
            }
        }
        // A stable sort, so that the order is the same in all processes.
        parts.sort_by_key(|&(group, _)| group);
        parts
    }

    /// Returns a flat tensor of zeros.
    pub(super) fn zeros(&self) -> Tensor {
        self.values.zeros_like()
    }

    /// Returns the parameters' parts of other flat tensors, each named after its tensor and its parameter.
    pub(super) fn named(&self, flats: &[(&str, &Tensor)]) -> Vec<(String, Tensor)> {
        let of_range = |range: &FlatRange| {
            let name = |kind: &str| format!("{kind}.{}", range.name);
            flats.iter().map(|(kind, flat)| (name(kind), range.of(flat))).collect::<Vec<_>>()
        };
        self.ranges.iter().flat_map(of_range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts cover all values, and each parameter is in a part of its group.
    #[test]
    fn parts_are_complete() {
        let named = ["b.x", "a.y", "c.z", "a.x", "d.x"]
            .map(|name| (name.to_owned(), Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true)));
        let flat = FlatParameters::new(named);
        assert_eq!(flat.parts(&[]), [(0, 0..80)]);
        assert_eq!(flat.parts(&[&["c"], &["b", "d", "none"]]), [(0, 48..64), (1, 32..48), (1, 64..80), (2, 0..32)]);
    }

    /// PyTorch's optimisers, too, are given only the parameters with `requires_grad`.
    #[test]
    fn what_needs_no_gradient_stays_where_it_is() {
        let tensor = || Tensor::from_slice(&[1f32, 2.0]);
        let (trained, frozen) = (tensor().set_requires_grad(true), tensor());
        let address = frozen.data_ptr();
        let named = [("a.frozen", &frozen), ("b.trained", &trained)];
        let flat = FlatParameters::new(named.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())));
        assert_eq!(flat.ranges.iter().map(|range| range.name.as_str()).collect::<Vec<_>>(), ["b.trained"]);
        assert_eq!((frozen.data_ptr(), trained.data_ptr()), (address, flat.values.data_ptr()));
    }
}
