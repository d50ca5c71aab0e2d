//! The keys of a config file, and suggestions for unknown ones.

use toml::{Table, Value};

/// Without libtorch the `[model]` and `[train]` tables are not checked.
#[cfg(not(feature = "torch"))]
pub type RunConfig = vqa_data::config::Config<Table, Table>;
#[cfg(feature = "torch")]
pub use vqa_train::run::RunConfig;

/// How similar two keys must be, from 0 to 1, for one to be suggested in place of the other.
const SIMILAR: f64 = 0.8;

/// Returns a message about an unknown key: the full path of the nearest known key, or the keys that its table can have.
pub fn explain_unknown(unknown: &[String]) -> String {
    let whole = join(unknown);
    // A key with the same last part is a match, since people leave out the table that it is in.
    let has_this_name = |key: &[String]| last_part(key) == last_part(unknown);
    let similarity = |key: &[String]| {
        let of_last_part = strsim::jaro_winkler(last_part(unknown), last_part(key));
        (of_last_part + strsim::jaro_winkler(&whole, &join(key))) / 2.0
    };
    let keys = all_keys(unknown);
    let mut nearest: Vec<&Vec<String>> =
        keys.iter().filter(|key| has_this_name(key) || similarity(key) > SIMILAR).collect();
    nearest.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)));
    // Several tables may have a key of this name, for example `hid_dim`.
    match nearest.iter().any(|key| has_this_name(key)) {
        true => nearest.retain(|key| has_this_name(key)),
        false => nearest.truncate(1),
    }
    if nearest.is_empty() {
        let table = &unknown[..unknown.len() - 1];
        let known = fields(table).map(|names| format!("; known here: {}", names.join(", ")));
        return format!("unknown key \"{whole}\"{}", known.unwrap_or_default());
    }
    let nearest: Vec<String> = nearest.iter().map(|key| format!("\"{}\"", join(key))).collect();
    format!("unknown key \"{whole}\"; did you mean {}?", nearest.join(" or "))
}

/// The first unknown key in a config.
pub fn first_unknown(config: &Value) -> Option<Vec<String>> {
    fn search(value: &Value, path: Vec<String>) -> Option<Vec<String>> {
        let below = |name: &str| [&path[..], &[name.to_owned()]].concat();
        match value {
            Value::Table(table) => {
                let known = fields(&path);
                table.iter().find_map(|(name, value)| match &known {
                    Some(known) if !known.contains(name) => Some(below(name)),
                    _ => search(value, below(name)),
                })
            }
            Value::Array(list) => list.iter().enumerate().find_map(|(i, value)| search(value, below(&i.to_string()))),
            _ => None,
        }
    }
    search(config, Vec::new())
}

/// All keys and tables of a config. There is one data split, with the split name of the key `like`, or else "train".
pub fn all_keys(like: &[String]) -> Vec<Vec<String>> {
    fn collect(path: Vec<String>, split: &str, keys: &mut Vec<Vec<String>>) {
        for name in fields(&path).unwrap_or_default() {
            let key = [&path[..], &[name]].concat();
            keys.push(key.clone());
            let below = match last_part(&key) {
                "data" => Some(split),
                "composition" => Some("0"),
                _ => None,
            };
            collect(key.into_iter().chain(below.map(str::to_owned)).collect(), split, keys);
        }
    }
    let split = like.get(1).filter(|_| like[0] == "data").map_or("train", String::as_str);
    let mut keys = Vec::new();
    collect(Vec::new(), split, &mut keys);
    keys
}

/// The names of the keys in a table of a config; `None` for values, and for tables with arbitrary keys. They are taken
/// from the error of the config's own types about a key that does not exist.
fn fields(path: &[String]) -> Option<Vec<String>> {
    let unknown = Value::Table(Table::from_iter([("?".to_owned(), Value::Integer(0))]));
    let config = path.iter().enumerate().rev().fold(unknown, |value, (i, part)| match i {
        1.. if path[i - 1] == "composition" => Value::Array(vec![value]),
        _ => Value::Table(Table::from_iter([(part.clone(), value)])),
    });
    let error = config.try_into::<RunConfig>().err()?;
    let names = error.message().trim().strip_prefix("unknown field `?`, expected ")?;
    Some(names.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

fn last_part(key: &[String]) -> &str {
    key.last().map_or("", String::as_str)
}

fn join(key: &[String]) -> String {
    key.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(key: &str) -> String {
        explain_unknown(&key.split('.').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_nearest_key_has_its_full_path() {
        let mut cases = vec![
            ("min_answer_count", "dict.min_answer_count"),
            ("dict.word", "dict.words"),
            ("dic.words", "dict.words"),
            ("outdir", "out_dir"),
            ("data.val.composition.1.features", "data.val.composition.0.features"),
            ("data.val.features", "data.val.composition.0.features"),
            ("data.test.composition.0.q_json", "data.test.composition.0.q_jsons"),
            ("data.val.fractions", "data.val.fraction"),
        ];
        if cfg!(feature = "torch") {
            cases.extend([
                ("train.lr", "train.optim.lr"),
                ("lr", "train.optim.lr"),
                ("train.weight_decay", "train.optim.weight_decay"),
                ("n_epochs", "train.n_epochs"),
                ("train.epochs", "train.n_epochs"),
                ("train.n_epoch", "train.n_epochs"),
                ("training.batch_size", "train.batch_size"),
                ("train.batchsize", "train.batch_size"),
                ("trian", "train"),
                ("model.glove", "model.lm.glove"),
                ("model.rnn_type", "model.lm.rnn_type"),
                ("model.topdown_attn.type", "model.topdown_att.type"),
            ]);
        }
        for (unknown, meant) in cases {
            let said = explain(unknown);
            assert_eq!(said, format!("unknown key \"{unknown}\"; did you mean \"{meant}\"?"));
        }
        assert!(explain("colour").contains("known here: seed, device, out_dir"), "{}", explain("colour"));
        #[cfg(feature = "torch")]
        for table in ["model", "model.topdown_att", "model.mlp"] {
            let said = explain("hid_dim");
            assert!(said.contains(&format!("\"{table}.hid_dim\"")), "{said}");
        }
    }
}
