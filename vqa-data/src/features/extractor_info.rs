//! How regions were extracted.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How regions were extracted, as one JSON value that feature files and checkpoints store.
///
/// ```
/// use vqa_data::features::ExtractorInfo;
///
/// let train = ExtractorInfo::parse(r#"{"kind": "grid", "grid": [4, 5], "patch": 16}"#);
/// let val = ExtractorInfo::parse(r#"{"patch": 8, "grid": [4, 5], "kind": "grid"}"#);
/// assert_eq!(train.difference(&val).unwrap(), "patch");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExtractorInfo(Value);

impl ExtractorInfo {
    /// The attribute of a feature file, and the key of a checkpoint's header, that holds the text.
    pub const KEY: &str = "extractor";

    /// Parses the text in a file. Text that is not JSON is taken as a name.
    pub fn parse(text: &str) -> ExtractorInfo {
        ExtractorInfo(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
    }

    /// Describes an extractor by its settings, with the names of their fields as keys. They must have a `kind`, which
    /// determines the other fields.
    ///
    /// # Panics
    ///
    /// When the settings cannot be JSON: a map whose keys are not strings, say.
    pub fn of(settings: &impl Serialize) -> ExtractorInfo {
        // Goes through text, so that it equals what will be read from a file.
        ExtractorInfo::parse(&serde_json::to_string(settings).expect("settings are JSON"))
    }

    /// The kind of extractor, such as `grid` or `backbone`; `None` if the text is not a JSON object with a `kind`.
    pub fn kind(&self) -> Option<&str> {
        self.0.get("kind")?.as_str()
    }

    /// Reads the settings of an extractor, by the names of their fields.
    ///
    /// # Errors
    ///
    /// When fields are missing or of the wrong type; the message names the first.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, String> {
        T::deserialize(&self.0).map_err(|error| error.to_string())
    }

    /// Names what differs; returns `None` if features of the two can be mixed.
    pub fn difference(&self, other: &ExtractorInfo) -> Option<String> {
        if self == other {
            return None;
        }
        let empty = Map::new();
        let [ours, theirs] = [self, other].map(|info| info.0.as_object().unwrap_or(&empty));
        let mut keys: Vec<&str> = ours
            .keys()
            .chain(theirs.keys())
            .filter(|&key| ours.get(key) != theirs.get(key))
            .map(|key| &**key)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        Some(if keys.is_empty() { "the whole of it".to_owned() } else { keys.join(", ") })
    }

    /// Returns the problem with mixing these features with those of `other_name`, if both extractors are known and
    /// differ.
    pub fn mismatch(info: Option<&ExtractorInfo>, other: Option<&ExtractorInfo>, other_name: &str) -> Option<String> {
        let (info, other) = (info?, other?);
        let difference = info.difference(other)?;
        Some(format!(
            "its features and those of {other_name} come from different extractors (what differs: {difference}): \
             {info} here, {other} there; extract one like the other (`vqa features extract --like`)"
        ))
    }
}

impl fmt::Display for ExtractorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_be_in_any_order_and_numbers_are_exact() {
        let info = ExtractorInfo::parse(r#"{"kind": "grid", "mean": [0.1, 0.30000000000000004, 1e-3]}"#);
        assert_eq!(ExtractorInfo::parse(&info.to_string()), info);
        let same = ExtractorInfo::parse(r#"{"mean":[0.1,0.30000000000000004,0.001],"kind":"grid"}"#);
        assert_eq!(info.difference(&same), None);
        let other = ExtractorInfo::parse(r#"{"kind": "grid", "mean": [0.1, 0.3, 1e-3], "whole": true}"#);
        assert_eq!(info.difference(&other).as_deref(), Some("mean, whole"));
        assert_eq!(info.difference(&ExtractorInfo::parse("resnet 101")).as_deref(), Some("kind, mean"));
        let [a, b] = ["resnet 101", "resnet 152"].map(ExtractorInfo::parse);
        assert_eq!(a.difference(&b).as_deref(), Some("the whole of it"));
    }

    #[test]
    fn only_known_extractors_are_compared() {
        let [a, b] = ["a", "b"].map(ExtractorInfo::parse);
        assert_eq!(ExtractorInfo::mismatch(Some(&a), None, "y.h5"), None);
        assert_eq!(ExtractorInfo::mismatch(Some(&a), Some(&a), "y.h5"), None);
        let message = ExtractorInfo::mismatch(Some(&a), Some(&b), "y.h5").unwrap();
        assert!(message.contains("those of y.h5") && message.contains("\"a\" here, \"b\" there"), "{message}");
    }
}
