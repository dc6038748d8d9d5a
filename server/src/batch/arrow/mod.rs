//! Batches as Arrow IPC streams: the column `_key`, perhaps `_op`, and one column for each field.
//!
//! A column that the sync does not own, or of a type that cannot be read, fails the whole body: it concerns every row.
//! A cell that cannot be kept is a bad row. Every column is set in every row. Null writes null, unless the column's
//! metadata say that it takes the field out of the record or leaves it as it is.

mod cell;
mod frames;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::{DataType, Field, Schema};
use larder_types::api::{ARROW_JSON, ARROW_NULLS, KEY_COLUMN, OP_COLUMN};
use larder_types::error::ErrorCode;
use larder_types::ids::FieldId;
use larder_types::key::{Key, KeyError};
use larder_types::patch::{Change, Nulls, Op, Patch};
use larder_types::value::{Value, ValueType};

use self::cell::Budget;
use self::frames::malformed;
use super::validate::{Fault, Known, Row, Sorted, SyncFields, convert};
use crate::error::ApiError;

const EXTENSION: &str = "ARROW:extension:name";

/// Reads a whole body.
///
/// # Errors
/// `invalid_request` for a stream that is malformed or cut short or lacks `_key`, `unknown_field` and
/// `field_owned_by_other_sync` for a column, `payload_too_large` for too many rows or bytes.
pub(super) fn decode(body: Vec<u8>, fields: &SyncFields<'_>, sorted: &mut Sorted) -> Result<(), ApiError> {
    let schema = frames::check(&body)?;
    let columns = Columns::of(&schema, fields)?;
    frames::check_layout(&body, &schema)?;
    let mut rest = Buffer::from_vec(body);
    let mut decoder = StreamDecoder::new();
    while !rest.is_empty() {
        // The decoder's messages may quote the data, so they are not passed on.
        let batch = decoder.decode(&mut rest).map_err(|_| malformed("a batch is damaged"))?;
        for (batch, row) in batch.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row))) {
            sorted.push(columns.read(batch, row))?;
        }
    }
    Ok(())
}

/// What the columns of a stream mean.
struct Columns {
    key: usize,
    op: Option<usize>,
    fields: Vec<Column>,
}

struct Column {
    at: usize,
    name: Arc<str>,
    id: FieldId,
    kind: ValueType,
    /// Its texts hold JSON.
    is_json: bool,
    /// What its nulls mean.
    nulls: Nulls,
}

impl Columns {
    fn of(schema: &Schema, fields: &SyncFields<'_>) -> Result<Self, ApiError> {
        let mut columns = Self { key: usize::MAX, op: None, fields: Vec::new() };
        for (at, field) in schema.fields().iter().enumerate() {
            if schema.fields()[..at].iter().any(|other| other.name() == field.name()) {
                return Err(ApiError::invalid(format!("the column `{}` is there twice", shown(field.name()))));
            }
            match field.name().as_str() {
                KEY_COLUMN if is_text(field.data_type()) || is_integer(field.data_type()) => columns.key = at,
                KEY_COLUMN => return Err(ApiError::invalid("the column `_key` must hold texts or integers")),
                OP_COLUMN if is_text(field.data_type()) => columns.op = Some(at),
                OP_COLUMN => return Err(ApiError::invalid("the column `_op` must hold texts")),
                _ => columns.fields.push(Column::of(at, field, fields)?),
            }
        }
        if columns.key == usize::MAX {
            return Err(ApiError::invalid("the column `_key` is missing"));
        }
        Ok(columns)
    }

    fn read(&self, batch: &RecordBatch, row: usize) -> Row {
        let mut budget = Budget::of_a_row();
        let op = self.op.map_or(Ok(Op::default()), |at| read_op(batch, at, row, &mut budget));
        let key = read_key(batch, self.key, row, &mut budget);
        let mut patch = || {
            let (op, key) = (op.clone()?, key.clone()?);
            let change = match op {
                Op::Upsert => Change::Upsert(self.read_fields(batch, row, &mut budget)?),
                Op::Clear => Change::Clear,
                Op::Delete => Change::Delete,
            };
            Ok(Patch { key, change })
        };
        patch().map_or_else(|fault| Row::Bad { key: key.ok(), op: op.unwrap_or_default(), fault }, Row::Good)
    }

    fn read_fields(
        &self,
        batch: &RecordBatch,
        row: usize,
        budget: &mut Budget,
    ) -> Result<Vec<(FieldId, Option<Value>)>, Fault> {
        let mut value_of = |column: &Column| {
            let in_field = |fault: Fault| fault.in_field(&column.name);
            let value = cell::read(batch.column(column.at).as_ref(), row, budget).map_err(in_field)?;
            let value = match value {
                Value::String(text) if column.is_json => {
                    Value::from_json(&text).map_err(|error| in_field(Fault::new("invalid_value", error.to_string())))?
                }
                other => other,
            };
            let value = convert(value, column.kind, &column.name)?;
            Ok(match column.nulls {
                Nulls::Skip if value == Value::Null => None,
                Nulls::Clear if value == Value::Null => Some((column.id, None)),
                _ => Some((column.id, Some(value))),
            })
        };
        self.fields.iter().filter_map(|column| value_of(column).transpose()).collect()
    }
}

impl Column {
    fn of(at: usize, field: &Field, fields: &SyncFields<'_>) -> Result<Self, ApiError> {
        let name = field.name().as_str();
        let details = |owner: Option<&str>| match owner {
            Some(owner) => serde_json::json!({ "field": shown(name), "owner": owner }),
            None => serde_json::json!({ "field": shown(name) }),
        };
        let (id, kind) = match fields.get(name) {
            Some(Known::Own(id, kind)) => (id, kind),
            Some(Known::Foreign(owner)) => {
                let message = format!("the column `{}` is a field of the sync `{owner}`", shown(name));
                return Err(ApiError::new(ErrorCode::FieldOwnedByOtherSync, message).with_details(details(Some(owner))));
            }
            None => {
                let message = format!("the sync does not declare the field `{}` of this column", shown(name));
                return Err(ApiError::new(ErrorCode::UnknownField, message).with_details(details(None)));
            }
        };
        if !cell::is_supported(field.data_type()) {
            let message = format!(
                "the column `{}` has an Arrow type that cannot be read (duration, interval, union, run-end encoded, or \
                 nested too deep): send it as text",
                shown(name)
            );
            return Err(ApiError::invalid(message));
        }
        let is_json = field.metadata().get(EXTENSION).is_some_and(|extension| extension == ARROW_JSON);
        let nulls = match field.metadata().get(ARROW_NULLS) {
            None => Nulls::default(),
            Some(word) => Nulls::parse(word).ok_or_else(|| {
                let message = format!(
                    "the column `{}` has the metadata `{ARROW_NULLS}`, which must be write, skip or clear",
                    shown(name)
                );
                ApiError::invalid(message)
            })?,
        };
        Ok(Self { at, name: name.into(), id, kind, is_json, nulls })
    }
}

fn read_key(batch: &RecordBatch, at: usize, row: usize, budget: &mut Budget) -> Result<Key, Fault> {
    let value = cell::read(batch.column(at).as_ref(), row, budget).map_err(|_| Fault::key(KeyError::Null))?;
    Key::from_value(&value).map_err(Fault::key)
}

fn read_op(batch: &RecordBatch, at: usize, row: usize, budget: &mut Budget) -> Result<Op, Fault> {
    let op = match cell::read(batch.column(at).as_ref(), row, budget) {
        Ok(Value::Null) => Some(Op::default()),
        Ok(Value::String(word)) => Op::parse(&word),
        _ => None,
    };
    op.ok_or_else(|| Fault::patch("`_op` must be upsert, clear or delete"))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_integer(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_integer(values),
        kind => kind.is_integer(),
    }
}

/// A column's name as far as it could be a field's.
fn shown(name: &str) -> String {
    name.chars().take(larder_types::limits::MAX_FIELD_NAME_BYTES).collect()
}
