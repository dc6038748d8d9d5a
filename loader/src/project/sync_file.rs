//! `syncs/*.yml`: which rows go to which fields of which collection.

use std::collections::BTreeMap;
use std::path::Path;

use larder_types::names::{CollectionName, FieldName, IndexName, SyncName};
use larder_types::patch::ExitMode;
use larder_types::value::ValueType;

use super::expression::read_field;
use super::model::{self, ModelParts};
use super::node::Node;
use super::schedule::{self, When};
use super::sheet::{Fields, Sheet};
use super::suggest::hint;
use super::{Expression, FieldMapping, Guard, OnDuplicate, SourceSpec, SyncSpec};

const EXIT_MODES: [(&str, ExitMode); 3] =
    [("keep", ExitMode::Keep), ("clear", ExitMode::Clear), ("delete", ExitMode::Delete)];
const ON_DUPLICATE: [(&str, OnDuplicate); 2] = [("fail", OnDuplicate::Fail), ("skip", OnDuplicate::Skip)];

/// What a sync may refer to.
pub(super) struct Known<'a> {
    /// The sources by name; `None` for one whose file has mistakes.
    pub(super) sources: &'a BTreeMap<String, Option<SourceSpec>>,
    /// The models' SQL by name.
    pub(super) models: &'a BTreeMap<String, String>,
    /// What `larder.yml` says of schedules.
    pub(super) schedule: &'a schedule::Defaults,
}

/// The file as taken apart, before anything in it is looked at, so that unknown keys are reported even if others fail.
struct Parts {
    source: Option<Node>,
    model: Option<Node>,
    table: Option<Node>,
    params: Option<Node>,
    key: Option<Node>,
    collection: Option<Node>,
    primary_index: Option<Node>,
    on_exit: Option<Node>,
    columns: Option<Node>,
    fields: Option<Node>,
    guard: Option<Node>,
    on_duplicate: Option<Node>,
    schedule: Option<Node>,
    timeout: Option<Node>,
    line: u32,
}

impl Parts {
    fn split(mut sync: Fields, sheet: &mut Sheet) -> Self {
        let parts = Self {
            source: sync.require("source", sheet),
            model: sync.take("model"),
            table: sync.take("table"),
            params: sync.take("params"),
            key: sync.require("key", sheet),
            collection: sync.require("collection", sheet),
            primary_index: sync.take("primary_index"),
            on_exit: sync.take("on_exit"),
            columns: sync.take("columns"),
            fields: sync.take("fields"),
            guard: sync.take("guard"),
            on_duplicate: sync.take("on_duplicate"),
            schedule: sync.take("schedule"),
            timeout: sync.take("timeout"),
            line: sync.line(),
        };
        sync.finish(sheet);
        parts
    }
}

/// Reads a sync. What is missing or wrong is reported to `sheet`; the result is complete only if nothing was.
pub(super) fn read(node: Node, name: SyncName, file: &Path, known: &Known<'_>, sheet: &mut Sheet) -> Option<SyncSpec> {
    let sync = sheet.fields(node, "the sync")?;
    let parts = Parts::split(sync, sheet);

    let fields = read_fields(parts.columns, parts.fields, parts.line, sheet);
    let source = parts.source.and_then(|node| read_source(node, known, sheet));
    let model = ModelParts { model: parts.model, table: parts.table, params: parts.params };
    let model = model::read(model, parts.line, known, sheet);
    let key = parts.key.and_then(|node| sheet.text(node, "key"));
    let collection = parts.collection.and_then(|node| sheet.parsed(node, "collection", CollectionName::new));
    let primary_index = parts.primary_index.and_then(|node| sheet.parsed(node, "primary_index", IndexName::new));
    let on_exit = parts.on_exit.and_then(|node| sheet.choice(node, "on_exit", &EXIT_MODES));
    let guard = parts.guard.map_or(Guard::default(), |node| read_guard(node, sheet));
    let on_duplicate = parts.on_duplicate.and_then(|node| sheet.choice(node, "on_duplicate", &ON_DUPLICATE));
    let schedule = match parts.schedule {
        Some(node) => schedule::read(node, &name, known.schedule, sheet),
        None => Some(known.schedule.of(When::Manual)),
    };
    let timeout = parts.timeout.and_then(|node| sheet.span(node, "timeout"));

    let (source, model) = (source?, model?);
    model::check_table(&source, &model, parts.line, known, sheet);
    if !sheet.is_clean() {
        return None;
    }
    Some(SyncSpec {
        name,
        file: file.to_path_buf(),
        source,
        model,
        key: key?,
        collection: collection?,
        primary_index,
        fields,
        on_exit: on_exit.unwrap_or_default(),
        guard,
        on_duplicate: on_duplicate.unwrap_or(OnDuplicate::Fail),
        schedule: schedule?,
        timeout,
    })
}

fn read_source(node: Node, known: &Known<'_>, sheet: &mut Sheet) -> Option<String> {
    let line = node.line;
    let source = sheet.text(node, "source")?;
    if !known.sources.contains_key(&source) {
        let hint = hint(&source, known.sources.keys().map(String::as_str));
        sheet.report(line, format!("there is no source `{source}` (sources/{source}.yml); {hint}"));
        return None;
    }
    Some(source)
}

/// The fields in order: those of `columns` first, then those of `fields`.
fn read_fields(columns: Option<Node>, fields: Option<Node>, line: u32, sheet: &mut Sheet) -> Vec<FieldMapping> {
    if columns.is_none() && fields.is_none() {
        sheet.report(line, "the sync writes no field; give `columns` or `fields`");
    }
    let mut mappings: Vec<FieldMapping> = Vec::new();
    let mut add = |mapping: FieldMapping, line: u32, sheet: &mut Sheet| {
        if mappings.iter().any(|other| other.name == mapping.name) {
            sheet.report(line, format!("field `{}` is given twice", mapping.name));
        } else {
            mappings.push(mapping);
        }
    };
    for node in columns.and_then(|node| sheet.list(node, "columns")).into_iter().flatten() {
        let line = node.line;
        if let Some(name) = sheet.parsed(node, "columns", FieldName::new) {
            let from = Expression::Column(name.as_str().to_owned());
            add(FieldMapping { name, kind: ValueType::Any, from }, line, sheet);
        }
    }
    for entry in fields.and_then(|node| sheet.entries(node, "fields")).into_iter().flatten() {
        let line = entry.line;
        if let Some(mapping) = read_field(entry, sheet) {
            add(mapping, line, sheet);
        }
    }
    if mappings.is_empty() && sheet.is_clean() {
        sheet.report(line, "the sync writes no field; `columns` and `fields` are empty");
    }
    mappings
}

fn read_guard(node: Node, sheet: &mut Sheet) -> Guard {
    let mut guard = Guard::default();
    let Some(mut fields) = sheet.fields(node, "`guard`") else { return guard };
    let max_removed = fields.take("max_removed");
    let min_rows = fields.take("min_rows");
    fields.finish(sheet);

    if let Some(rows) = min_rows.and_then(|node| sheet.count(node, "min_rows")) {
        guard.min_rows = rows;
    }
    let Some(mut fields) = max_removed.and_then(|node| sheet.fields(node, "`max_removed`")) else { return guard };
    let percent = fields.take("percent");
    let rows = fields.take("rows");
    fields.finish(sheet);
    if let Some(percent) = percent.and_then(|node| sheet.percent(node, "percent")) {
        guard.max_removed_percent = percent;
    }
    if let Some(rows) = rows.and_then(|node| sheet.count(node, "rows")) {
        guard.max_removed_rows = rows;
    }
    guard
}
