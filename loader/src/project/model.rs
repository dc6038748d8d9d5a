//! What a sync reads: `model`, `table` or `dbt`, and the `params` of a statement.

use std::collections::BTreeMap;

use larder_types::value::{Value, ValueType};

use super::expression::{constant, named};
use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Entry, Node};
use super::sheet::{Fields, Sheet};
use super::suggest::hint;
use super::sync_file::Known;
use super::{Model, SourceSpec, dbt};
use crate::source::statement::table_parts;

/// The types that a parameter may be given, beside the one that its YAML has.
const PARAM_TYPES: [ValueType; 7] = [
    ValueType::Bool,
    ValueType::Int,
    ValueType::Float,
    ValueType::Decimal,
    ValueType::String,
    ValueType::Date,
    ValueType::Timestamp,
];

const TYPES: [(&str, ValueType); PARAM_TYPES.len()] = named(&PARAM_TYPES);

/// What stands for a parameter: a value, or a mapping that also has its type.
pub(super) static PARAM_SHAPE: Shape = Shape::Either(&[Shape::Scalar, Shape::Section(&PARAM)]);

static PARAM: Section = Section {
    what: "the parameter",
    id: "param",
    about: "The value of a parameter.",
    keys: &[
        Key::required("value", Shape::Scalar, "The value."),
        Key::optional("type", Shape::Word(&words(&TYPES)), "The type to turn it into."),
    ],
    one_of: &[],
};

pub(super) static DBT: Section = Section {
    what: "`dbt`",
    id: "dbt",
    about: "A model of dbt, as its manifest describes it.",
    keys: &[
        Key::required("manifest", Shape::Text, "The manifest that dbt writes: `target/manifest.json`."),
        Key::required("model", Shape::Text, "The model, snapshot or seed."),
        Key::optional("package", Shape::Text, "Its dbt package, if several have one of this name."),
        Key::optional("version", Shape::Scalar, "Its version, if it has some. Default: the latest."),
    ],
    one_of: &[],
};

/// Reads what a sync reads.
pub(super) fn read(sync: &mut Fields, known: &Known<'_>, sheet: &mut Sheet) -> Option<Model> {
    let params = sync.take("params");
    let params_line = params.as_ref().map(|node| node.line);
    let params = match params {
        Some(node) => read_params(node, sheet),
        None => Some(BTreeMap::new()),
    };
    let (form, node) = sync.take_one()?;
    if form == "dbt" {
        let (name, text) = read_dbt(node, known, sheet)?;
        return Some(Model::Sql { name, text, params: params? });
    }
    if form == "table" {
        if let Some(line) = params_line {
            sheet.report(line, "`params` belong to the SQL of a `model`; a `table` has none");
        }
        return sheet.parsed(node, "table", check_table_name).map(Model::Table);
    }
    let line = node.line;
    let name = sheet.text(node, "model")?;
    let Some(text) = known.models.get(&name) else {
        let hint = hint(&name, known.models.keys().map(String::as_str));
        sheet.report(line, format!("there is no model `{name}` (models/{name}.sql); {hint}"));
        return None;
    };
    Some(Model::Sql { name, text: text.clone(), params: params? })
}

/// The name of a dbt model and the SQL that reads it.
fn read_dbt(node: Node, known: &Known<'_>, sheet: &mut Sheet) -> Option<(String, String)> {
    let line = node.line;
    let mut fields = sheet.fields(node, &DBT)?;
    let manifest = fields.read("manifest", sheet, |node, sheet| sheet.text(node, "manifest"));
    let model = fields.read("model", sheet, |node, sheet| sheet.text(node, "model"));
    let package = fields.take("package").map(|node| sheet.text(node, "package"));
    let version = fields.take("version").and_then(|node| constant(node).ok().flatten());
    let wanted = dbt::Wanted {
        model: model?,
        package: package.map_or(Some(None), |package| package.map(Some))?,
        version: version.map(|version| version.to_text()),
    };
    match known.manifests.sql(&known.root.join(manifest?), &wanted) {
        Ok(text) => Some((wanted.model, text)),
        Err(reason) => {
            sheet.report(line, reason);
            None
        }
    }
}

/// A table of files must be one that the source names. What tables a database has is known only when it is opened.
pub(super) fn check_table(source: &str, model: &Model, line: u32, known: &Known<'_>, sheet: &mut Sheet) {
    let (Some(Some(SourceSpec::Files { tables })), Model::Table(table)) = (known.sources.get(source), model) else {
        return;
    };
    if !tables.contains_key(table) {
        let hint = hint(table, tables.keys().map(String::as_str));
        sheet.report(line, format!("source `{source}` has no table `{table}`; {hint}"));
    }
}

/// Accepts `table` and `schema.table`, where a part in double quotes may hold anything.
fn check_table_name(name: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "must be a table's name, `schema.table`, or have `\"` around a part that holds dots";
    if table_parts(name).is_some() { Ok(name.to_owned()) } else { Err(EXPECTED) }
}

fn read_params(node: Node, sheet: &mut Sheet) -> Option<BTreeMap<String, Value>> {
    let mut params = BTreeMap::new();
    let mut complete = true;
    for entry in sheet.entries(node, "params")? {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if entry.key.starts_with(|c: char| c.is_ascii_digit()) || !entry.key.chars().all(is_name) {
            let key = &entry.key;
            sheet.report(entry.line, format!("parameter `{key}`: a name is of A-Z a-z 0-9 _ and begins with no digit"));
            complete = false;
            continue;
        }
        let key = entry.key.clone();
        match read_param(entry, sheet) {
            Some(value) => drop(params.insert(key, value)),
            None => complete = false,
        }
    }
    complete.then_some(params)
}

/// Reads `name: value` or `name: {value: …, type: …}`.
fn read_param(entry: Entry, sheet: &mut Sheet) -> Option<Value> {
    let Entry { key, line, node } = entry;
    let (value, kind) = match node.content {
        Content::Map(_) => {
            let mut fields = sheet.fields_of(node, &PARAM, &format!("the parameter `{key}`"))?;
            let value = fields.take("value");
            let kind = match fields.take("type") {
                Some(node) => sheet.choice(node, "type", &TYPES)?,
                None => ValueType::Any,
            };
            (value?, kind)
        }
        _ => (node, ValueType::Any),
    };
    if matches!(value.content, Content::Map(_) | Content::List(_)) {
        return sheet.expected(&value, &key, "a text, a number, a truth value or null");
    }
    // What a value cannot be read as may be a secret, so the message does not show it.
    let value = constant(value).ok().flatten()?;
    match value.convert(kind) {
        Ok(Value::Float(number)) if !number.is_finite() => {
            sheet.report(line, format!("parameter `{key}`: its value is no finite number"));
            None
        }
        Ok(value) => Some(value),
        Err(_) => {
            sheet.report(line, format!("parameter `{key}`: its value is no {kind}"));
            None
        }
    }
}
