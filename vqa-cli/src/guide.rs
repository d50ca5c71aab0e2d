//! Tests that the pages of `guide/` and the program agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use toml::{Table, Value};

use crate::args::Cli;
use crate::keys::{RunConfig, all_keys};

/// The pages by file name.
fn pages() -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("guide");
    let pages = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    pages.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// The keys of the config, as the page writes them, with `SPLIT` for the split and `N` for the number of a source.
fn keys() -> Vec<String> {
    let all: Vec<String> = all_keys(&[]).iter().map(|key| key.join(".")).collect();
    let is_table = |key: &String| all.iter().any(|other| other.starts_with(&format!("{key}.")));
    let mut keys: Vec<String> = all.iter().filter(|key| !is_table(key)).cloned().collect();
    for key in &mut keys {
        *key = key.replace("data.train.", "data.SPLIT.").replace(".composition.0.", ".composition.N.");
    }
    // Without libtorch the keys of these tables are unknown.
    keys.retain(|key| !["model", "train"].contains(&&**key));
    keys.sort();
    keys
}

#[test]
fn every_key_of_the_config_has_a_row_with_its_default() {
    let page = &pages()["config.md"];
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut rows: BTreeMap<&str, &str> = rows.map(|(key, rest)| (key, rest.split(" | ").next().unwrap())).collect();
    if cfg!(not(feature = "torch")) {
        rows.retain(|key, _| !key.starts_with("model.") && !key.starts_with("train."));
    }
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), keys());

    let defaults = Value::try_from(RunConfig::default()).unwrap();
    for (key, default) in rows {
        let place = key.split('.').try_fold(&defaults, |value, part| value.get(part));
        let expected = match default.strip_prefix('`').and_then(|text| text.strip_suffix('`')) {
            Some(text) => toml::from_str::<Table>(&format!("value = {text}")).unwrap().remove("value"),
            None => {
                assert!(["none", "required"].contains(&default), "{key}: {default}");
                None
            }
        };
        assert_eq!(place, expected.as_ref(), "{key}");
    }
}

/// Each command is on some page, and each of its arguments is on a page that has the command.
#[test]
fn every_command_and_argument_is_in_the_guide() {
    fn check(command: &clap::Command, name: &str, pages: &BTreeMap<String, String>) {
        let named: Vec<&String> = pages.values().filter(|page| page.contains(name)).collect();
        assert!(!named.is_empty(), "no page has `{name}`");
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        let flags = shown.filter_map(|argument| argument.get_long());
        for flag in flags.filter(|flag| !["help", "version"].contains(flag)) {
            let flag = format!("--{flag}");
            let is_whole = |rest: &str| !rest.starts_with(|next: char| next == '-' || next.is_alphanumeric());
            let is_there = |page: &String| page.split(&flag).skip(1).any(is_whole);
            assert!(named.iter().any(|page| is_there(page)), "no page with `{name}` has {flag}");
        }
        for command in command.get_subcommands() {
            check(command, &format!("{name} {}", command.get_name()), pages);
        }
    }
    check(&Cli::command(), "vqa", &pages());
}

/// Pages are short, and the targets of their links exist.
#[test]
fn pages_are_short_and_their_links_work() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("guide");
    let pages = pages();
    for (name, page) in &pages {
        assert!(page.lines().count() <= 150, "{name} is long");
        for link in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (path, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { name } else { path };
            assert!(directory.join(target).exists(), "{name}: {link}");
            let slug = |title: &str| title.trim().to_lowercase().replace(' ', "-").replace([',', '.', ':', '?'], "");
            let is_section = |line: &str| line.starts_with('#') && slug(line.trim_start_matches('#')) == section;
            assert!(section.is_empty() || pages[target].lines().any(is_section), "{name}: no section {link}");
        }
        assert!(
            name == "README.md" || pages["README.md"].contains(&format!("]({name})")),
            "{name} is not in the index"
        );
    }
}
