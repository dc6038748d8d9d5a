//! The `fields` of a sync: how each field is made from a row.

use larder_types::json::{Fragment, JsonError};
use larder_types::names::FieldName;
use larder_types::value::{Value, ValueType};

use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Entry, Node};
use super::sheet::{Fields, Sheet};
use super::{Expression, FieldMapping};

const TYPES: [(&str, ValueType); ValueType::ALL.len()] = named(&ValueType::ALL);

/// Types with their words, as choices.
pub(super) const fn named<const N: usize>(types: &[ValueType; N]) -> [(&'static str, ValueType); N] {
    let mut named = [("", ValueType::Any); N];
    let mut at = 0;
    while at < N {
        named[at] = (types[at].as_str(), types[at]);
        at += 1;
    }
    named
}

/// The forms that a mapping may take; exactly one of them is given.
const FORMS: &[&str] = &["column", "value", "template", "object", "list"];

/// What stands for a field: a column's name, or a mapping.
pub(super) static FIELD_SHAPE: Shape = Shape::Either(&[Shape::Text, Shape::Section(&FIELD)]);
static EXPRESSION_SHAPE: Shape = Shape::Either(&[Shape::Text, Shape::Section(&EXPRESSION)]);

/// The key of one of [`FORMS`]. A function, because a constant cannot lead back to itself.
const fn form(at: usize) -> Key {
    let (shape, about) = match at {
        0 => (Shape::Text, "A column of the row."),
        1 => (Shape::Anything, "The same value in every row."),
        2 => (Shape::Text, "A Liquid template over `row`."),
        3 => (Shape::Map(&EXPRESSION_SHAPE), "An object with these members in order."),
        _ => (Shape::List(&EXPRESSION_SHAPE), "A list of these elements."),
    };
    Key::optional(FORMS[at], shape, about)
}

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
        Key::optional("type", Shape::Word(&words(&TYPES)), "The field's type. Default `any`."),
    ],
    one_of: FORMS,
};

static EXPRESSION: Section = Section {
    what: "the mapping",
    id: "expression",
    about: "How a part of a field is made from a row.",
    keys: &[form(0), form(1), form(2), form(3), form(4)],
    one_of: FORMS,
};

/// Reads one field.
pub(super) fn read_field(entry: Entry, sheet: &mut Sheet) -> Option<FieldMapping> {
    let line = entry.line;
    let name = match FieldName::new(&entry.key) {
        Ok(name) => Some(name),
        Err(error) => {
            sheet.report(line, format!("field `{}`: {error}", entry.key));
            None
        }
    };
    let what = entry.key;
    let (kind, from) = match entry.node.content {
        Content::Map(_) => {
            let mut fields = sheet.fields_of(entry.node, &FIELD, &format!("the field `{what}`"))?;
            let kind = fields.take("type");
            let from = read_forms(fields, &what, sheet);
            let kind = match kind {
                Some(node) => sheet.choice(node, "type", &TYPES)?,
                None => ValueType::Any,
            };
            (kind, from?)
        }
        _ => (ValueType::Any, read_expression(entry.node, &what, sheet)?),
    };
    if let Some(fault) = type_fault(kind, &from) {
        sheet.report(line, format!("field `{what}`: {fault}"));
        return None;
    }
    Some(FieldMapping { name: name?, kind, from })
}

/// Reads what may stand for a value: a column's name, or a mapping of one form.
fn read_expression(node: Node, what: &str, sheet: &mut Sheet) -> Option<Expression> {
    match node.content {
        Content::Text { .. } => sheet.text(node, what).map(Expression::Column),
        Content::Map(_) => {
            let fields = sheet.fields_of(node, &EXPRESSION, &format!("the mapping of `{what}`"))?;
            read_forms(fields, what, sheet)
        }
        _ => sheet.expected(&node, what, "a column's name or a mapping (a constant is `{value: ...}`)"),
    }
}

fn read_forms(mut fields: Fields, what: &str, sheet: &mut Sheet) -> Option<Expression> {
    let (form, node) = fields.take_one()?;
    match form {
        "column" => sheet.text(node, "column").map(Expression::Column),
        "template" => sheet.text(node, "template").map(Expression::Template),
        "value" => read_constant(node, what, sheet),
        "object" => {
            let mut members = Vec::new();
            for entry in sheet.entries(node, "object")? {
                members.push((entry.key.clone(), read_expression(entry.node, &entry.key, sheet)?));
            }
            Some(Expression::Object(members))
        }
        _ => {
            let items = sheet.list(node, "list")?;
            let items: Option<Vec<_>> = items.into_iter().map(|item| read_expression(item, what, sheet)).collect();
            items.map(Expression::List)
        }
    }
}

fn read_constant(node: Node, what: &str, sheet: &mut Sheet) -> Option<Expression> {
    let line = node.line;
    match constant(node) {
        Ok(value) => value.map(Expression::Constant),
        Err(error) => {
            sheet.report(line, format!("`{what}`: {error}"));
            None
        }
    }
}

/// The value of a YAML tree; `None` if a part of it was reported as broken.
pub(super) fn constant(node: Node) -> Result<Option<Value>, JsonError> {
    Ok(Some(match node.content {
        Content::Broken => return Ok(None),
        Content::Null => Value::Null,
        Content::Bool(yes) => Value::Bool(yes),
        Content::Int(number) => Value::Int(number),
        Content::UInt(number) => Value::from_u64(number),
        Content::Float(number) => Value::Float(number),
        Content::Text { text, .. } => Value::String(text),
        Content::List(items) => {
            let items: Option<Vec<Value>> = items.into_iter().map(constant).collect::<Result<_, _>>()?;
            let Some(items) = items else { return Ok(None) };
            Value::List(Fragment::list(&items)?)
        }
        Content::Map(entries) => {
            let mut members = Vec::with_capacity(entries.len());
            for entry in entries {
                let Some(value) = constant(entry.node)? else { return Ok(None) };
                members.push((entry.key, value));
            }
            Value::Struct(Fragment::object(members.iter().map(|(name, value)| (name.as_str(), value)))?)
        }
    }))
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
