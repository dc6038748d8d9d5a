//! The schemas, held against the parser by whole projects.

use std::fs;
use std::path::{Path, PathBuf};

use boon::{Compiler, Schemas};
use serde_json::{Value, json};

use super::load::load;
use super::node::{Content, Node};
use super::tests::{SYNC, try_load};
use super::{FileKind, schema};
use crate::cli;

/// Whether a file is what its schema says.
fn is_valid(kind: FileKind, yaml: &str) -> bool {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("schema.json", schema(kind)).unwrap();
    let compiled = compiler.compile("schema.json", &mut schemas).unwrap();
    let node = Node::parse(yaml).map_err(|error| error.message).unwrap();
    let json = to_json(node);
    schemas.validate(&json, compiled).inspect_err(|error| eprintln!("{}: {error:#}", kind.as_str())).is_ok()
}

fn to_json(node: Node) -> Value {
    match node.content {
        Content::Null => Value::Null,
        Content::Bool(yes) => yes.into(),
        Content::Int(number) => number.into(),
        Content::UInt(number) => number.into(),
        Content::Float(number) => json!(number),
        Content::Text { text, .. } => text.into(),
        Content::List(items) => items.into_iter().map(to_json).collect(),
        Content::Map(entries) => entries.into_iter().map(|entry| (entry.key, to_json(entry.node))).collect(),
        Content::Broken => panic!("interpolation comes later"),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Loads a project and checks all its files; the paths that its first lines name must be those of the schemas.
fn check(root: &Path) {
    load(root, None, &|name| (name == "LARDER_KEY").then(|| "k".to_owned()))
        .unwrap_or_else(|problems| panic!("{}: {problems}", root.display()));
    let of = |kind, folder: &str| files(&root.join(folder)).into_iter().map(move |file| (kind, file));
    let all = of(FileKind::Sync, "syncs").chain(of(FileKind::Source, "sources"));
    let all: Vec<_> = all.chain([(FileKind::Settings, root.join("larder.yml"))]).collect();
    assert!(all.len() >= 3, "{}", root.display());
    for (kind, file) in all {
        let text = fs::read_to_string(&file).unwrap();
        assert!(is_valid(kind, &text), "{}", file.display());
        if let Some(named) = text.lines().next().and_then(|line| line.strip_prefix("# yaml-language-server: $schema="))
        {
            let named = file.parent().unwrap().join(named);
            let written: Value = serde_json::from_str(&fs::read_to_string(named).unwrap()).unwrap();
            assert_eq!(written, schema(kind));
        }
    }
}

#[test]
fn projects_that_load_are_what_the_schemas_say() {
    for template in cli::template_names() {
        let folder = tempfile::tempdir().unwrap();
        assert!(cli::write_template(folder.path(), template));
        check(folder.path());
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/demo");
    if demo.join("larder.yml").is_file() {
        check(&demo);
    }
}

#[test]
fn what_the_parser_refuses_by_its_tables_the_schemas_refuse_too() {
    for (yaml, good) in [
        (SYNC.to_owned(), true),
        (format!("{SYNC}nulls: \"${{NULLS:-skip}}\"\n"), true),
        (
            format!(
                "{SYNC}fields: {{a: b, c: {{column: d, type: int, on_error: {{default: 0}}}}, e: {{list: [f]}}}}\n"
            ),
            true,
        ),
        (SYNC.replace("key: tailnum", "key: [a, b]"), true),
        (SYNC.replace("key: tailnum", "key: {columns: [a, b], separator: \".\"}"), true),
        (SYNC.replace("key: tailnum\n", ""), false),
        (SYNC.replace("table: planes\n", ""), false),
        (format!("{SYNC}model: usage\n"), false),
        (format!("{SYNC}colums: [a]\n"), false),
        (format!("{SYNC}on_exit: drop\n"), false),
        (format!("{SYNC}guard: {{min_rows: -1}}\n"), false),
        (format!("{SYNC}fields: {{a: {{column: b, value: 1}}}}\n"), false),
        (format!("{SYNC}fields: {{a: {{object: {{b: {{column: c, type: int}}}}}}}}\n"), false),
    ] {
        assert_eq!(is_valid(FileKind::Sync, &yaml), good, "{yaml}");
        assert_eq!(try_load(&[("syncs/s.yml", &yaml)]).is_ok(), good, "{yaml}");
    }
}
