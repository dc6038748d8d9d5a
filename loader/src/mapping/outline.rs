//! What a mapping is made of, so that no row is sent again without need: the order of fields does not count, nor does a
//! variable that nothing reads.
//!
//! Every part is known by a hash of all that decides what it makes of a row: expressions, types, rules for nulls and
//! errors, the values of the variables in use. Names and texts do not leave the project.

use std::collections::BTreeMap;

use larder_types::value::Value;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{cell, constants};
use crate::project::{Expression, FieldMapping, KeySpec, OnError, SyncSpec};

/// Raised whenever the same mapping would make other fields of the same row than before, so that all rows are sent
/// again: a change in the rules of conversion, in a filter, or in how columns are read.
const MAPPING_RULES: u32 = 4;

/// The parts of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// See [`MAPPING_RULES`].
    rules: u32,
    key: u64,
    /// The columns that a row's hash is made of, in order.
    columns: Vec<String>,
    fields: BTreeMap<String, FieldOutline>,
}

/// One field of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FieldOutline {
    /// What its value is made of, and what nulls do.
    value: u64,
    /// What takes the place of a value that cannot be made; none if that rejects the row.
    on_error: Option<u64>,
}

impl Outline {
    /// The outline of a mapping that reads these columns.
    pub(super) fn of(spec: &SyncSpec, columns: Vec<String>) -> Self {
        let field = |field: &FieldMapping| (field.name.to_string(), FieldOutline::of(field, spec));
        Self {
            rules: MAPPING_RULES,
            key: hash_of_key(&spec.key),
            columns,
            fields: spec.fields.iter().map(field).collect(),
        }
    }

    /// Stands for the outline: rows that are made by outlines with one fingerprint are comparable.
    pub(crate) fn fingerprint(&self) -> u128 {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.rules.to_le_bytes());
        bytes.extend_from_slice(&self.key.to_le_bytes());
        self.columns.iter().for_each(|column| put_text(column, &mut bytes));
        bytes.push(b'.');
        for (name, field) in &self.fields {
            put_text(name, &mut bytes);
            bytes.extend_from_slice(&field.value.to_le_bytes());
            bytes.extend_from_slice(&field.on_error.unwrap_or_default().to_le_bytes());
        }
        xxh3_128(&bytes)
    }
}

impl FieldOutline {
    fn of(field: &FieldMapping, spec: &SyncSpec) -> Self {
        let mut bytes = Vec::new();
        put_text(field.kind.as_str(), &mut bytes);
        put_text(field.nulls.as_str(), &mut bytes);
        put_expression(&field.from, spec, &mut bytes);
        let on_error = match &field.on_error {
            OnError::Reject => None,
            OnError::Use(value) => {
                let mut bytes = Vec::new();
                cell::put(&Ok(value.clone()), &mut bytes);
                // Zero stands for none in the fingerprint.
                Some(xxh3_64(&bytes).max(1))
            }
        };
        Self { value: xxh3_64(&bytes), on_error }
    }
}

fn hash_of_key(key: &KeySpec) -> u64 {
    let mut bytes = Vec::new();
    key.columns().iter().for_each(|column| put_text(column, &mut bytes));
    if key.columns().len() > 1 {
        put_text(&key.separator().to_string(), &mut bytes);
    }
    xxh3_64(&bytes)
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    cell::put(&Ok(Value::String(text.to_owned())), out);
}

/// Appends an expression with the values of the variables that it may read.
fn put_expression(from: &Expression, spec: &SyncSpec, out: &mut Vec<u8>) {
    match from {
        Expression::Column(name) => {
            out.push(b'c');
            put_text(name, out);
        }
        Expression::Constant(value) => {
            out.push(b'v');
            cell::put(&Ok(value.clone()), out);
        }
        Expression::Template(text) => {
            out.push(b't');
            put_text(text, out);
            for (path, value) in constants(spec).iter().filter(|(path, _)| may_read(text, path)) {
                put_text(path, out);
                cell::put(&Ok(value.clone()), out);
            }
        }
        Expression::Object(members) => {
            out.push(b'o');
            for (name, member) in members {
                put_text(name, out);
                put_expression(member, spec, out);
            }
            out.push(b'.');
        }
        Expression::List(items) => {
            out.push(b'l');
            items.iter().for_each(|item| put_expression(item, spec, out));
            out.push(b'.');
        }
    }
}

/// Whether a template may read `root.name`, however it is written: both words stand in it.
fn may_read(text: &str, path: &str) -> bool {
    path.split('.').all(|word| text.contains(word))
}
