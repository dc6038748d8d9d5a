//! What lints cannot keep: how source files look, which crates may depend on which, and what must not be written.
//!
//! The checkers are pure functions over texts, tested on bad samples; the tests at the end run them over this tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use larder_tests::scratch::repository;
use serde_json::Value;

/// Longest source file in lines.
const MAX_LINES: usize = 800;

/// The crates of this workspace that each crate may depend on. Whatever is not listed is forbidden; nobody may depend
/// on the leaves.
const DIRECTIONS: [(&str, &[&str]); 7] = [
    ("larder-types", &[]),
    ("larder-storage", &["larder-types"]),
    ("larder-replication", &["larder-types", "larder-storage"]),
    ("larder-server", &["larder-types", "larder-storage", "larder-replication"]),
    ("larder-loader", &["larder-types"]),
    ("larder-bench", &["larder-types", "larder-storage", "larder-loader"]),
    ("larder-tests", &["larder-types", "larder-storage", "larder-replication", "larder-server", "larder-loader"]),
];

/// Crates that only some rooms may use directly: what keeps storage free of I/O runtimes and openraft replaceable.
const CONFINED: [(&str, &[&str]); 4] = [
    ("openraft", &["larder-replication"]),
    ("tokio", &["larder-replication", "larder-server", "larder-loader", "larder-bench", "larder-tests"]),
    ("hyper", &["larder-server", "larder-loader", "larder-bench"]),
    ("rusqlite", &["larder-loader"]),
];

/// Words of unfinished work. Written in halves, so that this file does not hold them.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("CONTRACT ", "STUB"),
];

/// Beginnings of paths that exist on somebody's machine only.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// What is wrong with the form of a Rust source file.
fn form_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push("does not open with `//!` and what it is for".to_owned());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("has {lines} lines, {MAX_LINES} are allowed: split it by noun"));
    }
    faults
}

/// What a text holds that must not be in the repository, with line numbers.
fn forbidden_words(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let unfinished = UNFINISHED.into_iter().filter(|word| line.contains(word));
        let paths = MACHINE_PATHS.into_iter().filter(|path| holds_absolute(line, path));
        faults.extend(unfinished.chain(paths).map(|word| format!("line {number} holds `{word}`")));
    }
    faults
}

/// Tells whether `path` begins a path in `line`, rather than going on with one that is relative or behind a variable.
fn holds_absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '/' | '~' | '>'))
    })
}

/// Dependencies that go in a forbidden direction, in the output of `cargo metadata --no-deps`.
fn dependency_faults(metadata: &Value) -> Result<Vec<String>> {
    let allowed: BTreeMap<&str, &[&str]> = DIRECTIONS.into_iter().collect();
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        seen.insert(name);
        let Some(may_use) = allowed.get(name) else {
            faults.push(format!("{name} is in no room: add it to DIRECTIONS"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            let uses = dependency["name"].as_str().context("a dependency has no name")?;
            if allowed.contains_key(uses) && !may_use.contains(&uses) {
                faults.push(format!("{name} must not depend on {uses}"));
            }
            let confined = CONFINED.into_iter().find(|(confined, _)| *confined == uses);
            if confined.is_some_and(|(_, rooms)| !rooms.contains(&name)) {
                faults.push(format!("{name} must not use {uses}"));
            }
        }
    }
    faults.extend(allowed.keys().filter(|name| !seen.contains(*name)).map(|name| format!("{name} is missing")));
    Ok(faults)
}

/// The versions of each `arrow-*` crate and of `parquet` in a `Cargo.lock`.
fn arrow_versions(lock: &str) -> BTreeMap<String, Vec<String>> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let value =
        |line: &str, key: &str| Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned());
    let mut name = None;
    for line in lock.lines() {
        if let Some(found) = value(line, "name") {
            name = Some(found);
        } else if let Some(version) = value(line, "version")
            && let Some(name) = name.take_if(|name| name.starts_with("arrow") || name == "parquet")
        {
            versions.entry(name).or_default().push(version);
        }
    }
    versions
}

/// All files of the tree but git's own, build output, and what `.gitignore` names in its first column. No git is asked,
/// so that an exported tree can be checked too.
fn tree() -> Result<Vec<PathBuf>> {
    let root = repository();
    let ignored = fs::read_to_string(root.join(".gitignore")).context("no .gitignore")?;
    let mut skipped: BTreeSet<PathBuf> = BTreeSet::from([root.join(".git"), root.join("target")]);
    skipped.extend(ignored.lines().map(|line| root.join(line.trim_matches('/'))).filter(|path| *path != root));
    let mut files = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if skipped.contains(&entry.path()) {
                continue;
            } else if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Runs a checker over the text files of the tree that `wanted` picks, and names every fault with its file.
fn faults_in_tree(wanted: impl Fn(&Path) -> bool, check: impl Fn(&str) -> Vec<String>) -> Result<Vec<String>> {
    let root = repository();
    let mut faults = Vec::new();
    let mut checked = 0;
    for path in tree()?.into_iter().filter(|path| wanted(path)) {
        // What is not UTF-8 is data, such as a Parquet file.
        let Ok(text) = String::from_utf8(fs::read(&path)?) else { continue };
        checked += 1;
        let name = path.strip_prefix(&root)?.display().to_string();
        faults.extend(check(&text).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    ensure!(checked >= 20, "only {checked} files were found: the tree is not where it is looked for");
    Ok(faults)
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

mod checkers {
    use super::*;

    #[test]
    fn a_silent_or_long_file_is_found() {
        assert_none(&form_faults("//! What it is for.\n\nuse x;\n"));
        for silent in ["use x;\n", "", "// Not a module doc.\n", "//!\n//! Late.\n", "\n//! Late.\n"] {
            assert_eq!(form_faults(silent).len(), 1, "{silent:?}");
        }
        let long = |lines: usize| format!("//! Doc.\n{}", "x\n".repeat(lines - 1));
        assert_none(&form_faults(&long(MAX_LINES)));
        assert!(form_faults(&long(MAX_LINES + 1))[0].contains("801 lines"));
    }

    #[test]
    fn unfinished_work_is_found() {
        for word in UNFINISHED {
            let text = format!("fine\n    // {word} later\n");
            assert_eq!(forbidden_words(&text), [format!("line 2 holds `{word}`")]);
        }
        assert_none(&forbidden_words("a mastodon; to do so; fix me; xxx"));
    }

    #[test]
    fn machine_paths_are_found_and_relative_ones_are_not() {
        for path in MACHINE_PATHS {
            for text in [format!("{path}x"), format!("see `{path}x`"), format!("X={path}x"), format!("\"{path}x\"")] {
                assert_eq!(forbidden_words(&text).len(), 1, "{text}");
            }
            for text in
                [format!("docs{path}x"), format!("..{path}x"), format!("$HOME{path}"), format!("${{DIR}}{path}")]
            {
                assert_none(&forbidden_words(&text));
            }
        }
    }

    /// Metadata of all crates of the workspace, one of which uses `dependency`.
    fn metadata(user: &str, dependency: &str) -> Value {
        let package = |(name, _): (&str, &[&str])| {
            let dependencies =
                if name == user { serde_json::json!([{"name": dependency}]) } else { serde_json::json!([]) };
            serde_json::json!({"name": name, "dependencies": dependencies})
        };
        serde_json::json!({"packages": DIRECTIONS.into_iter().map(package).collect::<Vec<_>>()})
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() -> Result<()> {
        for (user, fine) in [
            ("larder-storage", "larder-types"),
            ("larder-server", "larder-replication"),
            ("larder-replication", "openraft"),
            ("larder-types", "serde"),
        ] {
            assert_none(&dependency_faults(&metadata(user, fine))?);
        }
        for (user, bad) in [
            ("larder-types", "larder-storage"),
            ("larder-storage", "larder-replication"),
            ("larder-storage", "larder-storage"),
            ("larder-loader", "larder-storage"),
            ("larder-server", "larder-bench"),
            ("larder-bench", "larder-tests"),
            ("larder-storage", "tokio"),
            ("larder-server", "openraft"),
        ] {
            assert_eq!(dependency_faults(&metadata(user, bad))?.len(), 1, "{user} -> {bad}");
        }
        Ok(())
    }

    #[test]
    fn a_new_or_lost_crate_is_found() -> Result<()> {
        let mut changed = metadata("", "");
        changed["packages"][0]["name"] = "larder-util".into();
        assert_eq!(
            dependency_faults(&changed)?,
            ["larder-util is in no room: add it to DIRECTIONS", "larder-types is missing"]
        );
        Ok(())
    }

    #[test]
    fn a_second_arrow_version_is_found() {
        let entry = |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n");
        let lock = entry("arrow-array", "59.0.0") + &entry("arrow-array", "60.0.0") + &entry("serde", "1.0.0");
        assert_eq!(
            arrow_versions(&lock),
            BTreeMap::from([("arrow-array".to_owned(), vec!["59.0.0".to_owned(), "60.0.0".to_owned()])])
        );
    }
}

#[test]
fn every_source_file_opens_with_its_purpose_and_is_short() -> Result<()> {
    assert_none(&faults_in_tree(is_rust, form_faults)?);
    Ok(())
}

#[test]
fn nothing_is_unfinished_or_bound_to_a_machine() -> Result<()> {
    assert_none(&faults_in_tree(|_| true, forbidden_words)?);
    Ok(())
}

#[test]
fn crates_depend_on_each_other_in_one_direction() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(repository())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    assert_none(&dependency_faults(&serde_json::from_slice(&output.stdout)?)?);
    Ok(())
}

#[test]
fn one_version_of_each_arrow_crate_is_locked() -> Result<()> {
    let versions = arrow_versions(&fs::read_to_string(repository().join("Cargo.lock"))?);
    assert!(versions.contains_key("arrow-array") && versions.contains_key("parquet"), "{versions:?}");
    for (name, versions) in versions {
        assert_eq!(versions.len(), 1, "{name} is locked in several versions: {versions:?}");
    }
    Ok(())
}
