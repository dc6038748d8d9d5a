//! `columns` and `fields` of a sync: the fields that it writes, each with what happens to nulls and errors.

use larder_types::names::FieldName;
use larder_types::patch::Nulls;
use larder_types::value::{Value, ValueType};

use super::expression::{FORMS, form, named, read_constant, read_expression, read_forms};
use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Entry, Node};
use super::sheet::{Fields, Sheet};
use super::variable::Variables;
use super::{Expression, FieldMapping, OnError};

const TYPES: [(&str, ValueType); ValueType::ALL.len()] = named(&ValueType::ALL);

const NULLS: [(&str, Nulls); Nulls::ALL.len()] = {
    let mut nulls = [("", Nulls::Write); Nulls::ALL.len()];
    let mut at = 0;
    while at < nulls.len() {
        nulls[at] = (Nulls::ALL[at].as_str(), Nulls::ALL[at]);
        at += 1;
    }
    nulls
};

/// What `nulls` may hold, of a field and of a sync.
pub(super) static NULLS_SHAPE: Shape = Shape::Word(&words(&NULLS));

const ERROR_WORDS: [(&str, bool); 2] = [("reject", true), ("null", false)];

static ON_ERROR: Section = Section {
    what: "`on_error`",
    id: "on_error",
    about: "What the field holds if it cannot be made.",
    keys: &[Key::required("default", Shape::Anything, "The value to write instead.")],
    one_of: &[],
};

/// What stands for a field: a column's name, or a mapping.
pub(super) static FIELD_SHAPE: Shape = Shape::Either(&[Shape::Text, Shape::Section(&FIELD)]);

static FIELD: Section = Section {
    what: "the field",
    id: "field",
    about: "How a field is made from a row.",
    keys: &[
        form(0),
        form(1),
        form(2),
        form(3),
        form(4),
        form(5),
        Key::optional("type", Shape::Word(&words(&TYPES)), "The field's type. Default `any`."),
        Key::optional("nulls", NULLS_SHAPE, "What a null does: it is written, leaves the field, or takes it out."),
        Key::optional(
            "on_error",
            Shape::Either(&[Shape::Word(&words(&ERROR_WORDS)), Shape::Null, Shape::Section(&ON_ERROR)]),
            "What happens if the field cannot be made: `reject` the row (default), write null, or write a default.",
        ),
    ],
    one_of: FORMS,
};

/// What applies to all fields of a sync.
pub(super) struct OfSync<'a> {
    pub(super) nulls: Nulls,
    pub(super) variables: &'a Variables,
}

/// Reads what nulls do.
pub(super) fn read_nulls(node: Node, sheet: &mut Sheet) -> Option<Nulls> {
    sheet.choice(node, "nulls", &NULLS)
}

/// The fields in order: those of `columns` first, then those of `fields`.
pub(super) fn read(sync: &mut Fields, of_sync: &OfSync<'_>, sheet: &mut Sheet) -> Vec<FieldMapping> {
    let (columns, fields, line) = (sync.take("columns"), sync.take("fields"), sync.line());
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
            let mapping = FieldMapping { nulls: of_sync.nulls, ..FieldMapping::new(name, ValueType::Any, from) };
            add(mapping, line, sheet);
        }
    }
    for entry in fields.and_then(|node| sheet.entries(node, "fields")).into_iter().flatten() {
        let line = entry.line;
        if let Some(mapping) = read_field(entry, of_sync, sheet) {
            add(mapping, line, sheet);
        }
    }
    if mappings.is_empty() && sheet.is_clean() {
        sheet.report(line, "the sync writes no field; `columns` and `fields` are empty");
    }
    mappings
}

fn read_field(entry: Entry, of_sync: &OfSync<'_>, sheet: &mut Sheet) -> Option<FieldMapping> {
    let Entry { key: what, line, node } = entry;
    let name = match FieldName::new(&what) {
        Ok(name) => Some(name),
        Err(error) => {
            sheet.report(line, format!("field `{what}`: {error}"));
            None
        }
    };
    let (mut kind, mut nulls, mut on_error) = (ValueType::Any, of_sync.nulls, OnError::Reject);
    let from = if let Content::Map(_) = node.content {
        let mut fields = sheet.fields_of(node, &FIELD, &format!("the field `{what}`"))?;
        let given = (fields.take("type"), fields.take("nulls"), fields.take("on_error"));
        let from = read_forms(fields, &what, of_sync.variables, sheet);
        if let Some(node) = given.0 {
            kind = sheet.choice(node, "type", &TYPES)?;
        }
        if let Some(node) = given.1 {
            nulls = read_nulls(node, sheet)?;
        }
        if let Some(node) = given.2 {
            on_error = read_on_error(node, kind, &what, sheet)?;
        }
        from?
    } else {
        read_expression(node, &what, of_sync.variables, sheet)?
    };
    if let Some(fault) = type_fault(kind, &from) {
        sheet.report(line, format!("field `{what}`: {fault}"));
        return None;
    }
    Some(FieldMapping { name: name?, kind, from, nulls, on_error })
}

fn read_on_error(node: Node, kind: ValueType, what: &str, sheet: &mut Sheet) -> Option<OnError> {
    let line = node.line;
    match node.content {
        // Without quotes, YAML's own null stands here.
        Content::Null => return Some(OnError::Use(Value::Null)),
        Content::Map(_) => {}
        _ => {
            let rejects = sheet.choice(node, "on_error", &ERROR_WORDS)?;
            return Some(if rejects { OnError::Reject } else { OnError::Use(Value::Null) });
        }
    }
    let mut fields = sheet.fields(node, &ON_ERROR)?;
    let value = fields.read("default", sheet, |node, sheet| read_constant(node, what, sheet))?;
    match value.convert(kind) {
        Ok(value) => Some(OnError::Use(value)),
        Err(reason) => {
            sheet.report(line, format!("field `{what}`: the default is {reason}"));
            None
        }
    }
}

/// What is wrong between a declared type and an expression whose kind is known without any row.
fn type_fault(kind: ValueType, from: &Expression) -> Option<String> {
    match from {
        Expression::Constant(value) => {
            value.clone().convert(kind).err().map(|error| format!("the constant is {error}"))
        }
        Expression::Object(_)
            if !matches!(kind, ValueType::Any | ValueType::Struct | ValueType::Json | ValueType::String) =>
        {
            Some(format!("an object cannot become a field of type {kind}"))
        }
        Expression::List(_)
            if !matches!(kind, ValueType::Any | ValueType::List | ValueType::Json | ValueType::String) =>
        {
            Some(format!("a list cannot become a field of type {kind}"))
        }
        _ => None,
    }
}
