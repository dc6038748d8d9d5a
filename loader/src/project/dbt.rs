//! dbt models: what dbt's `manifest.json` says of them.
//!
//! A model that dbt keeps in the database is read from there, whatever dbt would do to make it; one that it does not
//! (`ephemeral`) is read by its compiled SQL.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;

use super::suggest::hint;

/// Versions of the manifest that are understood: dbt 1.3 to the present.
const VERSIONS: std::ops::RangeInclusive<u32> = 7..=12;
/// Kinds of nodes that are rows.
const KINDS: [&str; 3] = ["model", "snapshot", "seed"];

/// The manifests of a project, each read once.
#[derive(Default)]
pub(super) struct Manifests(RefCell<BTreeMap<PathBuf, Rc<Result<Manifest, String>>>>);

/// Which model.
pub(super) struct Wanted {
    pub(super) model: String,
    /// The dbt package it is in, if several have one of this name.
    pub(super) package: Option<String>,
    /// Its version, if it has some; otherwise the latest.
    pub(super) version: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Manifest {
    nodes: BTreeMap<String, Node>,
}

#[derive(Deserialize)]
struct Metadata {
    dbt_schema_version: String,
}

#[derive(Deserialize)]
struct Node {
    resource_type: String,
    name: String,
    package_name: String,
    #[serde(default)]
    version: Option<Version>,
    #[serde(default)]
    latest_version: Option<Version>,
    #[serde(default)]
    relation_name: Option<String>,
    #[serde(default)]
    compiled_code: Option<String>,
    #[serde(default)]
    config: Config,
}

/// A version of a model: dbt takes numbers and texts.
#[derive(Deserialize, PartialEq)]
#[serde(untagged)]
enum Version {
    Number(serde_json::Number),
    Text(String),
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    materialized: Option<String>,
}

impl Manifests {
    /// The SQL that reads a model of a manifest.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the manifest or the name, and what to do.
    pub(super) fn sql(&self, file: &Path, wanted: &Wanted) -> Result<String, String> {
        let known = self.0.borrow().get(file).map(Rc::clone);
        let manifest = known.unwrap_or_else(|| {
            let read = Rc::new(read(file));
            self.0.borrow_mut().insert(file.to_path_buf(), Rc::clone(&read));
            read
        });
        match manifest.as_ref() {
            Ok(manifest) => manifest.sql(wanted),
            Err(error) => Err(error.clone()),
        }
    }
}

fn read(path: &Path) -> Result<Manifest, String> {
    #[derive(Deserialize)]
    struct Head {
        metadata: Metadata,
    }
    let shown = path.display();
    let open = || {
        let fault = |error| format!("{shown} cannot be read: {error}; `dbt compile` makes it");
        File::open(path).map(BufReader::new).map_err(fault)
    };
    // The version first: of another one nothing else can be expected to be where it should be.
    let not_one = |error: serde_json::Error| format!("{shown} is no manifest of dbt: {error}");
    let head: Head = serde_json::from_reader(open()?).map_err(not_one)?;
    let version = &head.metadata.dbt_schema_version;
    let number = version.rsplit_once("/v").and_then(|(_, end)| end.strip_suffix(".json")?.parse::<u32>().ok());
    if number.is_none_or(|number| !VERSIONS.contains(&number)) {
        let (first, last) = (VERSIONS.start(), VERSIONS.end());
        return Err(format!("{shown} is of version `{version}`; versions v{first} to v{last} are understood"));
    }
    serde_json::from_reader(open()?).map_err(not_one)
}

impl Manifest {
    fn sql(&self, wanted: &Wanted) -> Result<String, String> {
        let node = self.find(wanted)?;
        let name = &wanted.model;
        let is_kept = node.config.materialized.as_deref() != Some("ephemeral");
        if let (true, Some(relation)) = (is_kept, &node.relation_name) {
            return Ok(format!("SELECT * FROM {relation}"));
        }
        match node.compiled_code.as_deref().map(str::trim) {
            Some(code) if !code.is_empty() => Ok(code.to_owned()),
            _ => Err(format!(
                "dbt keeps no table or view of model `{name}`, and it is not compiled in the manifest; run `dbt compile`"
            )),
        }
    }

    fn find(&self, wanted: &Wanted) -> Result<&Node, String> {
        let Wanted { model, package, version } = wanted;
        let rows = || self.nodes.values().filter(|node| KINDS.contains(&node.resource_type.as_str()));
        let named: Vec<&Node> = rows()
            .filter(|node| node.name == *model)
            .filter(|node| package.as_ref().is_none_or(|package| node.package_name == *package))
            .collect();
        let matching: Vec<&Node> = named.iter().copied().filter(|node| node.is_version(version.as_deref())).collect();
        match (matching.as_slice(), named.as_slice()) {
            ([node], _) => Ok(node),
            ([], []) => {
                let place = package.as_ref().map(|package| format!(" in package `{package}`")).unwrap_or_default();
                let names: Vec<&str> = rows().map(|node| node.name.as_str()).collect();
                Err(format!("dbt knows no model `{model}`{place}; {}", hint(model, names.into_iter())))
            }
            ([], named) => {
                let versions: Vec<String> =
                    named.iter().filter_map(|node| Some(node.version.as_ref()?.text())).collect();
                Err(format!("dbt model `{model}` has no such version; it has: {}", versions.join(", ")))
            }
            (matching, _) => {
                let packages: Vec<String> = matching.iter().map(|node| format!("`{}`", node.package_name)).collect();
                let packages = packages.join(", ");
                Err(format!("several dbt packages have a model `{model}`: {packages}; say which with `package`"))
            }
        }
    }
}

impl Node {
    /// Whether this is the version that is meant; without one, the latest is.
    fn is_version(&self, version: Option<&str>) -> bool {
        match (version, &self.version) {
            (None, None) => true,
            (None, Some(own)) => self.latest_version.as_ref().is_none_or(|latest| latest == own),
            (Some(version), own) => own.as_ref().is_some_and(|own| own.text() == version),
        }
    }
}

impl Version {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{
      "metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json", "adapter_type": "postgres"},
      "nodes": {
        "model.shop.users": {"resource_type": "model", "name": "users", "package_name": "shop", "unknown": [1],
          "relation_name": "\"db\".\"app\".\"users\"", "compiled_code": "SELECT 1", "config": {"materialized": "table"}},
        "model.shop.part": {"resource_type": "model", "name": "part", "package_name": "shop", "relation_name": null,
          "compiled_code": "\nSELECT 2 AS id\n", "config": {"materialized": "ephemeral"}},
        "model.shop.raw": {"resource_type": "model", "name": "raw", "package_name": "shop", "relation_name": null,
          "config": {"materialized": "ephemeral"}},
        "model.shop.both": {"resource_type": "model", "name": "both", "package_name": "shop", "relation_name": "a"},
        "model.core.both": {"resource_type": "model", "name": "both", "package_name": "core", "relation_name": "b"},
        "model.shop.v.v1": {"resource_type": "model", "name": "v", "package_name": "shop", "version": 1,
          "latest_version": 2, "relation_name": "v_v1"},
        "model.shop.v.v2": {"resource_type": "model", "name": "v", "package_name": "shop", "version": 2,
          "latest_version": 2, "relation_name": "v_v2"},
        "test.shop.users": {"resource_type": "test", "name": "users_unique", "package_name": "shop"}
      }
    }"#;

    fn sql(manifest: &str, model: &str, package: Option<&str>, version: Option<&str>) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("manifest.json");
        std::fs::write(&file, manifest).unwrap();
        let wanted = Wanted {
            model: model.to_owned(),
            package: package.map(str::to_owned),
            version: version.map(str::to_owned),
        };
        let manifests = Manifests::default();
        let first = manifests.sql(&file, &wanted);
        assert_eq!(manifests.sql(&file, &wanted), first);
        first
    }

    #[test]
    fn models_are_read_from_where_dbt_keeps_them() {
        for (model, package, version, expected) in [
            ("users", None, None, r#"SELECT * FROM "db"."app"."users""#),
            ("part", None, None, "SELECT 2 AS id"),
            ("both", Some("core"), None, "SELECT * FROM b"),
            ("v", None, None, "SELECT * FROM v_v2"),
            ("v", None, Some("1"), "SELECT * FROM v_v1"),
        ] {
            assert_eq!(sql(MANIFEST, model, package, version).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_told() {
        let newer = MANIFEST.replace("v12.json", "v13.json");
        for (manifest, model, version, expected) in [
            (MANIFEST, "user", None, "did you mean `users`"),
            (MANIFEST, "users_unique", None, "knows no model"),
            (MANIFEST, "raw", None, "run `dbt compile`"),
            (MANIFEST, "both", None, "say which with `package`"),
            (MANIFEST, "v", Some("3"), "it has: 1, 2"),
            (newer.as_str(), "users", None, "v7 to v12"),
            ("{}", "users", None, "no manifest of dbt"),
            ("nonsense", "users", None, "no manifest of dbt"),
        ] {
            let error = sql(manifest, model, None, version).unwrap_err();
            assert!(error.contains(expected), "{model}: {error}");
        }
        let wanted = Wanted { model: "x".to_owned(), package: None, version: None };
        let error = Manifests::default().sql(Path::new("no/such/manifest.json"), &wanted).unwrap_err();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
