//! Columns of Arrow as SQLite holds them.
//!
//! | file | SQLite |
//! | --- | --- |
//! | integers, booleans (0 and 1) | INTEGER |
//! | floats; NaN is NULL, which is what SQLite makes of it | REAL |
//! | text | TEXT |
//! | dates, timestamps in UTC | TEXT: `YYYY-MM-DD`, `YYYY-MM-DD HH:MM:SS[.ffffff]` |
//! | times of day, decimals, UUIDs | TEXT |
//! | lists, structs, maps | TEXT: JSON |
//! | bytes | BLOB |

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BinaryArray, Float64Array, Int64Array, StringArray};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_json::EncoderOptions;
use arrow_json::writer::make_encoder;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, TimeUnit};
use larder_types::time::{is_date, is_timestamp, write_date, write_timestamp};
use rusqlite::types::ValueRef;

use super::{EXTENSION_NAME, UUID_EXTENSION};

/// A column ready to be bound to a statement.
pub(super) enum Cells {
    Int(Int64Array),
    Real(Float64Array),
    Text(StringArray),
    Blob(BinaryArray),
    Null,
}

/// The SQLite type of a column; none if SQLite cannot hold it.
pub(super) fn declaration(field: &Field) -> Option<&'static str> {
    if is_uuid(field) {
        return Some("TEXT");
    }
    Some(match field.data_type() {
        DataType::Boolean => "INTEGER",
        kind if kind.is_integer() => "INTEGER",
        kind if kind.is_floating() => "REAL",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BLOB",
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => "TEXT",
        DataType::Time32(_) | DataType::Time64(_) => "TEXT",
        kind if kind.is_decimal() => "TEXT",
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "TEXT",
        DataType::Struct(_) | DataType::Map(..) => "TEXT",
        DataType::Null => "BLOB",
        _ => return None,
    })
}

impl Cells {
    /// Converts a column whose type has a [`declaration`].
    pub(super) fn of(field: &FieldRef, column: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(match field.data_type() {
            DataType::Null => Self::Null,
            DataType::Date32 | DataType::Date64 => Self::Text(dates(column)?),
            DataType::Timestamp(..) => Self::Text(timestamps(column)?),
            kind if kind.is_nested() => Self::Text(json(field, column)?),
            _ if is_uuid(field) => Self::Text(uuids(column)?),
            _ => match declaration(field) {
                Some("INTEGER") => Self::Int(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
                Some("REAL") => Self::Real(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone()),
                Some("BLOB") => Self::Blob(cast(column, &DataType::Binary)?.as_binary::<i32>().clone()),
                _ => Self::Text(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()),
            },
        })
    }

    /// The value in a row.
    pub(super) fn value(&self, row: usize) -> ValueRef<'_> {
        match self {
            Self::Int(column) if column.is_valid(row) => ValueRef::Integer(column.value(row)),
            Self::Real(column) if column.is_valid(row) => ValueRef::Real(column.value(row)),
            Self::Text(column) if column.is_valid(row) => ValueRef::Text(column.value(row).as_bytes()),
            Self::Blob(column) if column.is_valid(row) => ValueRef::Blob(column.value(row)),
            _ => ValueRef::Null,
        }
    }
}

/// A cast in which a value that the target cannot hold is an error, not a null.
fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    // The cast's own message may quote the value.
    cast_with_options(column, to, &strict).map_err(|_| {
        ArrowError::CastError(format!("a value of type {} does not fit SQLite's {to}", column.data_type()))
    })
}

fn is_uuid(field: &Field) -> bool {
    field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == UUID_EXTENSION)
}

fn uuids(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let bytes = cast(column, &DataType::Binary)?;
    texts(bytes.as_binary::<i32>().iter(), |bytes, text| {
        for (position, byte) in bytes.iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        true
    })
}

fn dates(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let days = cast(column, &DataType::Date32)?;
    texts(days.as_primitive::<Date32Type>().iter(), |days, text| {
        let writable = is_date(days);
        if writable {
            write_date(days, text);
        }
        writable
    })
}

fn timestamps(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    // Keeping the zone keeps the number: it counts from 1970-01-01T00:00:00Z whatever the zone.
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    texts(micros.as_primitive::<TimestampMicrosecondType>().iter(), |micros, text| {
        let writable = is_timestamp(micros);
        if writable {
            write_timestamp(micros, text);
            // From RFC 3339 to what SQLite's own functions write.
            *text = text.trim_end_matches('Z').replacen('T', " ", 1);
        }
        writable
    })
}

fn texts<T>(
    values: impl Iterator<Item = Option<T>>,
    write: impl Fn(T, &mut String) -> bool,
) -> Result<StringArray, ArrowError> {
    let mut out = StringBuilder::new();
    let mut text = String::new();
    for value in values {
        let Some(value) = value else {
            out.append_null();
            continue;
        };
        text.clear();
        if !write(value, &mut text) {
            return Err(ArrowError::CastError("a date outside the years 0001 to 9999".to_owned()));
        }
        out.append_value(&text);
    }
    Ok(out.finish())
}

fn json(field: &FieldRef, column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let field = Arc::new(field.as_ref().clone().with_data_type(with_offsets(field.data_type())));
    let column = cast(column, field.data_type())?;
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, column.as_ref(), &options)?;
    let mut out = StringBuilder::new();
    let mut text = Vec::new();
    for row in 0..column.len() {
        if column.is_null(row) {
            out.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        out.append_value(String::from_utf8_lossy(&text));
    }
    Ok(out.finish())
}

/// The type with every time zone as an offset: without a table of zones, Arrow's encoder does not know even `UTC`. It
/// is the only zone that a file brings.
fn with_offsets(data_type: &DataType) -> DataType {
    let inside = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(with_offsets(field.data_type())));
    match data_type {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::List(item) => DataType::List(inside(item)),
        DataType::LargeList(item) => DataType::LargeList(inside(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(inside(item), *length),
        DataType::Struct(members) => DataType::Struct(members.iter().map(inside).collect()),
        DataType::Map(entries, sorted) => DataType::Map(inside(entries), *sorted),
        plain => plain.clone(),
    }
}
