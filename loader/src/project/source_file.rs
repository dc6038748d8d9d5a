//! `sources/*.yml`: databases and files to read from.

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::{Key, Section, Shape, Variant, words};
use super::node::{Content, Node};
use super::serve::{self, MAX_OF_SOURCE};
use super::sheet::{Fields, Sheet};
use super::{ColumnType, FileFormat, FileTable, SourceSpec, driver, is_plain_name};

const FORMATS: [(&str, FileFormat); 4] = [
    ("parquet", FileFormat::Parquet),
    ("csv", FileFormat::Csv),
    ("ndjson", FileFormat::Ndjson),
    ("jsonl", FileFormat::Ndjson),
];

const TYPES: [(&str, ColumnType); ColumnType::ALL.len()] = {
    let mut types = [("", ColumnType::Bool); ColumnType::ALL.len()];
    let mut at = 0;
    while at < types.len() {
        types[at] = (ColumnType::ALL[at].as_str(), ColumnType::ALL[at]);
        at += 1;
    }
    types
};

pub(super) static SOURCE: Variant = Variant {
    what: "the source",
    tag: "driver",
    cases: &[("files", &FILES), ("sqlite", &SQLITE)],
    other: Some(&driver::DRIVER),
};

static FILES: Section = Section {
    what: "the source",
    id: "source_files",
    about: "Files presented as tables.",
    keys: &[
        Key::required("driver", Shape::Word(&["files"]), "How the source is read."),
        MAX_OF_SOURCE,
        Key::required(
            "tables",
            Shape::Map(&Shape::Either(&[Shape::Text, Shape::Section(&TABLE)])),
            "Tables, each with the path of its files.",
        ),
    ],
    one_of: &[],
};

static SQLITE: Section = Section {
    what: "the source",
    id: "source_sqlite",
    about: "An existing SQLite database, opened read-only.",
    keys: &[
        Key::required("driver", Shape::Word(&["sqlite"]), "How the source is read."),
        Key::required("path", Shape::Text, "The database file, relative to the project."),
        MAX_OF_SOURCE,
    ],
    one_of: &[],
};

static TABLE: Section = Section {
    what: "the table",
    id: "table",
    about: "One table made of files.",
    keys: &[
        Key::required("path", Shape::Text, "A path relative to the project; `*` and `?` may stand in its last part."),
        Key::optional("format", Shape::Word(&words(&FORMATS)), "The format, if the path's extension does not tell."),
        Key::optional(
            "types",
            Shape::Map(&Shape::Word(&words(&TYPES))),
            "Types of columns that are not to be guessed.",
        ),
    ],
    one_of: &[],
};

/// Reads a source, and how many runs at a time it takes. Paths in it are taken relative to `root`.
pub(super) fn read(node: Node, root: &Path, sheet: &mut Sheet) -> Option<(SourceSpec, Option<usize>)> {
    let (driver, mut fields) = sheet.variant(node, &SOURCE)?;
    let limit = fields.read("max_concurrent_runs", sheet, serve::read_limit);
    let source = match driver {
        Some("files") => read_files(fields, root, sheet),
        Some(_) => {
            let path = fields.read("path", sheet, |node, sheet| sheet.text(node, "path"));
            path.map(|path| SourceSpec::Sqlite { path: root.join(path) })
        }
        None => driver::read(fields, root, sheet).map(|source| SourceSpec::Driver(Box::new(source))),
    };
    Some((source?, limit))
}

fn read_files(mut fields: Fields, root: &Path, sheet: &mut Sheet) -> Option<SourceSpec> {
    let node = fields.take("tables")?;
    let line = node.line;
    let entries = sheet.entries(node, "tables")?;
    if entries.is_empty() {
        sheet.report(line, "`tables` names no table");
        return None;
    }
    let mut tables: BTreeMap<String, FileTable> = BTreeMap::new();
    for entry in entries {
        if let Some(message) = table_name_fault(&entry.key, &tables) {
            sheet.report(entry.line, message);
            continue;
        }
        if let Some(table) = read_table(entry.node, &entry.key, root, sheet) {
            tables.insert(entry.key, table);
        }
    }
    Some(SourceSpec::Files { tables })
}

/// Tables are given to SQLite, which sees no difference of case and keeps one prefix for itself.
fn table_name_fault(name: &str, taken: &BTreeMap<String, FileTable>) -> Option<String> {
    if !is_plain_name(name) {
        return Some(format!("table `{name}`: a table name is 1 to 64 of A-Z a-z 0-9 _ -"));
    }
    if name.to_ascii_lowercase().starts_with("sqlite_") {
        return Some(format!("table `{name}`: names that begin with `sqlite_` are reserved"));
    }
    let same = taken.keys().find(|other| other.eq_ignore_ascii_case(name))?;
    Some(format!("tables `{same}` and `{name}` have the same name: SQL does not see the case of letters"))
}

fn read_table(node: Node, name: &str, root: &Path, sheet: &mut Sheet) -> Option<FileTable> {
    let line = node.line;
    let (path, format, types) = match node.content {
        Content::Text { .. } | Content::Broken => (Some(node), None, None),
        Content::Map(_) => {
            let mut fields = sheet.fields_of(node, &TABLE, &format!("the table `{name}`"))?;
            (fields.take("path"), fields.take("format"), fields.take("types"))
        }
        _ => return sheet.expected(&node, name, "a path or a mapping with `path`"),
    };
    let format = match format {
        Some(node) => Some(sheet.choice(node, "format", &FORMATS)?),
        None => None,
    };
    let types = types.map_or_else(|| Some(BTreeMap::new()), |node| read_types(node, sheet));
    let path = sheet.text(path?, "path")?;
    if path.rsplit_once('/').is_some_and(|(folder, _)| folder.contains(['*', '?'])) {
        sheet.report(line, format!("table `{name}`: `*` and `?` may stand in the last part of a path only"));
        return None;
    }
    let Some(format) = format.or_else(|| format_of(&path)) else {
        sheet.report(
            line,
            format!("table `{name}`: the path does not tell the format; add `format: parquet|csv|ndjson`"),
        );
        return None;
    };
    let types = types?;
    if format == FileFormat::Parquet && !types.is_empty() {
        sheet.report(line, format!("table `{name}`: Parquet files bring their types; remove `types`"));
        return None;
    }
    Some(FileTable { path: root.join(path).to_string_lossy().into_owned(), format, types })
}

fn read_types(node: Node, sheet: &mut Sheet) -> Option<BTreeMap<String, ColumnType>> {
    let mut types = BTreeMap::new();
    for entry in sheet.entries(node, "types")? {
        if let Some(kind) = sheet.choice(entry.node, &entry.key, &TYPES) {
            types.insert(entry.key, kind);
        }
    }
    Some(types)
}

/// The format that a path's extension stands for.
fn format_of(path: &str) -> Option<FileFormat> {
    let (_, extension) = path.rsplit_once('.')?;
    let extension = extension.to_ascii_lowercase();
    FORMATS.iter().find(|(word, _)| *word == extension).map(|(_, format)| *format)
}
