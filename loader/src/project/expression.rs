//! Expressions: how a value is made from a row.

use larder_types::json::{Fragment, JsonError};
use larder_types::value::{Value, ValueType};

use super::Expression;
use super::keys::{Key, Section, Shape};
use super::node::{Content, Node};
use super::sheet::{Fields, Sheet};
use super::variable::{self, Variables};

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
pub(super) const FORMS: &[&str] = &["column", "value", "variable", "template", "object", "list"];

static EXPRESSION_SHAPE: Shape = Shape::Either(&[Shape::Text, Shape::Section(&EXPRESSION)]);

/// The key of one of [`FORMS`]. A function, because a constant cannot lead back to itself.
pub(super) const fn form(at: usize) -> Key {
    let (shape, about) = match at {
        0 => (Shape::Text, "A column of the row."),
        1 => (Shape::Anything, "The same value in every row."),
        2 => (Shape::Text, "A variable of the sync."),
        3 => (Shape::Text, "A Liquid template over `row`."),
        4 => (Shape::Map(&EXPRESSION_SHAPE), "An object with these members in order."),
        _ => (Shape::List(&EXPRESSION_SHAPE), "A list of these elements."),
    };
    Key::optional(FORMS[at], shape, about)
}

static EXPRESSION: Section = Section {
    what: "the mapping",
    id: "expression",
    about: "How a part of a field is made from a row.",
    keys: &[form(0), form(1), form(2), form(3), form(4), form(5)],
    one_of: FORMS,
};

/// Reads what may stand for a value: a column's name, or a mapping of one form.
pub(super) fn read_expression(node: Node, what: &str, variables: &Variables, sheet: &mut Sheet) -> Option<Expression> {
    match node.content {
        Content::Text { .. } => sheet.text(node, what).map(Expression::Column),
        Content::Map(_) => {
            let fields = sheet.fields_of(node, &EXPRESSION, &format!("the mapping of `{what}`"))?;
            read_forms(fields, what, variables, sheet)
        }
        _ => sheet.expected(&node, what, "a column's name or a mapping (a constant is `{value: ...}`)"),
    }
}

/// Reads the one form that a mapping has.
pub(super) fn read_forms(
    mut fields: Fields,
    what: &str,
    variables: &Variables,
    sheet: &mut Sheet,
) -> Option<Expression> {
    let (form, node) = fields.take_one()?;
    match form {
        "column" => sheet.text(node, "column").map(Expression::Column),
        "template" => sheet.text(node, "template").map(Expression::Template),
        "value" => read_constant(node, what, sheet).map(Expression::Constant),
        // A variable has the same value in every row.
        "variable" => variable::find(node, variables, sheet).map(Expression::Constant),
        "object" => {
            let mut members = Vec::new();
            for entry in sheet.entries(node, "object")? {
                members.push((entry.key.clone(), read_expression(entry.node, &entry.key, variables, sheet)?));
            }
            Some(Expression::Object(members))
        }
        _ => {
            let items = sheet.list(node, "list")?;
            let items: Option<Vec<_>> =
                items.into_iter().map(|item| read_expression(item, what, variables, sheet)).collect();
            items.map(Expression::List)
        }
    }
}

/// Reads a value that stands in the file.
pub(super) fn read_constant(node: Node, what: &str, sheet: &mut Sheet) -> Option<Value> {
    let line = node.line;
    match constant(node) {
        Ok(value) => value,
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
