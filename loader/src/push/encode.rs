//! Bodies: rows as an Arrow IPC stream of one record batch with ZSTD-compressed buffers.
//!
//! The first columns are `_key` and `_op`; each field follows as a column of the type that holds all its values in
//! this batch exactly. What one Arrow type cannot hold goes as JSON text (extension `arrow.json`) or, for decimals, as
//! plain text; the cluster converts both to the field's declared type. A field declared `json` goes as JSON text without
//! the extension: the cluster reads texts of such a field as JSON, once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use larder_types::api::{ARROW_JSON, ARROW_NULLS, KEY_COLUMN, OP_COLUMN};
use larder_types::decimal::Decimal;
use larder_types::names::FieldName;
use larder_types::patch::{Nulls, Op};
use larder_types::value::{Value, ValueType};

use super::batch::Patch;

const EXTENSION: &str = "ARROW:extension:name";
/// Digits of an Arrow decimal.
const PRECISION: u8 = 38;

/// The body of a batch. All patches have the same operation; removals carry no fields.
///
/// # Errors
/// When Arrow refuses, which it has no reason to.
pub(super) fn body(op: Op, patches: &[Patch], fields: &[(FieldName, ValueType, Nulls)]) -> Result<Bytes, ArrowError> {
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(patches.iter().map(|patch| &patch.key)));
    let ops: ArrayRef = Arc::new(StringArray::from_iter_values(patches.iter().map(|_| op.as_str())));
    let mut columns = vec![keys, ops];
    let mut schema = vec![Field::new(KEY_COLUMN, DataType::Utf8, false), Field::new(OP_COLUMN, DataType::Utf8, false)];
    if op == Op::Upsert {
        for (at, (name, kind, nulls)) in fields.iter().enumerate() {
            let (array, is_json) = match kind {
                ValueType::Json => (json(patches.iter().map(|patch| &patch.values[at])), false),
                _ => column(patches, at)?,
            };
            let field = Field::new(name.as_str(), array.data_type().clone(), true);
            let mut metadata = HashMap::new();
            if is_json {
                metadata.insert(EXTENSION.to_owned(), ARROW_JSON.to_owned());
            }
            if *nulls != Nulls::Write {
                metadata.insert(ARROW_NULLS.to_owned(), nulls.as_str().to_owned());
            }
            schema.push(field.with_metadata(metadata));
            columns.push(array);
        }
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(schema)), columns)?;
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options)?;
    writer.write(&batch)?;
    writer.finish()?;
    Ok(Bytes::from(writer.into_inner()?))
}

/// One field of all patches, and whether it is JSON text.
fn column(patches: &[Patch], at: usize) -> Result<(ArrayRef, bool), ArrowError> {
    let values = || patches.iter().map(|patch| &patch.values[at]);
    let array: ArrayRef = match shape(values()) {
        Shape::Bool => Arc::new(collect::<_, BooleanArray>(values(), |value| match value {
            Value::Bool(yes) => Some(*yes),
            _ => None,
        })),
        Shape::Int => Arc::new(collect::<_, Int64Array>(values(), |value| match value {
            Value::Int(number) => Some(*number),
            _ => None,
        })),
        Shape::UInt => Arc::new(collect::<_, UInt64Array>(values(), |value| match value {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::UInt(number) => Some(*number),
            _ => None,
        })),
        Shape::Float => Arc::new(collect::<_, Float64Array>(values(), |value| match value {
            Value::Float(float) => Some(*float),
            _ => None,
        })),
        Shape::Decimal(scale) => {
            let mantissas = collect::<_, Decimal128Array>(values(), |value| match value {
                Value::Decimal(decimal) => Some(decimal.mantissa()),
                _ => None,
            });
            Arc::new(mantissas.with_precision_and_scale(PRECISION, scale)?)
        }
        Shape::Text => Arc::new(collect::<_, StringArray>(values(), |value| match value {
            Value::Null => None,
            other => Some(other.to_text()),
        })),
        Shape::Binary => Arc::new(BinaryArray::from_iter(values().map(|value| match value {
            Value::Binary(bytes) => Some(bytes.as_slice()),
            _ => None,
        }))),
        Shape::Date => Arc::new(collect::<_, Date32Array>(values(), |value| match value {
            Value::Date(days) => Some(*days),
            _ => None,
        })),
        Shape::Timestamp => {
            let micros = collect::<_, TimestampMicrosecondArray>(values(), |value| match value {
                Value::Timestamp(micros) => Some(*micros),
                _ => None,
            });
            Arc::new(micros.with_timezone("UTC"))
        }
        Shape::Json => return Ok((json(values()), true)),
    };
    Ok((array, false))
}

fn json<'a>(values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    Arc::new(collect::<_, StringArray>(values, |value| match value {
        Value::Null => None,
        other => {
            let mut text = String::new();
            other.write_json(&mut text);
            Some(text)
        }
    }))
}

fn collect<'a, T, A: FromIterator<Option<T>>>(
    values: impl Iterator<Item = &'a Value>,
    read: impl Fn(&'a Value) -> Option<T>,
) -> A {
    values.map(read).collect()
}

/// The column that holds all values of a field exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bool,
    Int,
    UInt,
    Float,
    Decimal(i8),
    Text,
    Binary,
    Date,
    Timestamp,
    Json,
}

fn shape<'a>(values: impl Iterator<Item = &'a Value>) -> Shape {
    let mut found: Option<Shape> = None;
    let mut negative = false;
    for value in values {
        negative |= matches!(value, Value::Int(number) if *number < 0);
        let shape = match value {
            Value::Null => continue,
            Value::Bool(_) => Shape::Bool,
            Value::Int(_) => Shape::Int,
            Value::UInt(_) => Shape::UInt,
            Value::Float(_) => Shape::Float,
            Value::Decimal(decimal) => decimal_shape(*decimal),
            Value::String(_) => Shape::Text,
            Value::Binary(_) => Shape::Binary,
            Value::Date(_) => Shape::Date,
            Value::Timestamp(_) => Shape::Timestamp,
            Value::List(_) | Value::Struct(_) => Shape::Json,
        };
        found = Some(match (found, shape) {
            (None, shape) => shape,
            (Some(before), shape) if before == shape => shape,
            (Some(Shape::Int | Shape::UInt), Shape::Int | Shape::UInt) => Shape::UInt,
            _ => return Shape::Json,
        });
    }
    match found {
        // Of nothing but nulls, any column will do.
        None => Shape::Text,
        Some(Shape::UInt) if negative => Shape::Json,
        Some(shape) => shape,
    }
}

/// Decimals of one scale make a column; of several scales they are written as JSON numbers, digit by digit.
fn decimal_shape(decimal: Decimal) -> Shape {
    let fits = decimal.mantissa().unsigned_abs() < 10u128.pow(u32::from(PRECISION));
    match i8::try_from(decimal.scale()) {
        Ok(scale) if fits => Shape::Decimal(scale),
        _ => Shape::Json,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array as _;
    use arrow_array::cast::AsArray as _;
    use arrow_ipc::reader::StreamReader;
    use larder_types::json::Fragment;

    use super::*;
    use crate::diff::hash::RowHash;
    use crate::diff::join::Change;

    fn patches(values: Vec<Value>) -> Vec<Patch> {
        let patch = |(at, value): (usize, Value)| Patch {
            key: format!("k{at}"),
            change: Change::Added,
            hash: RowHash::UNKNOWN,
            number: 1,
            values: vec![value],
        };
        values.into_iter().enumerate().map(patch).collect()
    }

    fn decoded(op: Op, patches: &[Patch]) -> RecordBatch {
        decoded_as(ValueType::Any, op, patches)
    }

    fn decoded_as(kind: ValueType, op: Op, patches: &[Patch]) -> RecordBatch {
        let fields = [(FieldName::new("f").unwrap(), kind, Nulls::Write)];
        let body = body(op, patches, &fields).unwrap();
        let mut reader = StreamReader::try_new(body.as_ref(), None).unwrap();
        let batch = reader.next().unwrap().unwrap();
        assert!(reader.next().is_none());
        batch
    }

    fn decimal(text: &str) -> Value {
        Value::Decimal(text.parse().unwrap())
    }

    #[test]
    fn a_column_has_the_type_that_holds_its_values() {
        let list = || Value::List(Fragment::parse("[1]").unwrap());
        let utc = DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into()));
        for (values, expected, json) in [
            (vec![Value::Null, Value::Bool(true)], DataType::Boolean, false),
            (vec![Value::Int(-1), Value::Null], DataType::Int64, false),
            (vec![Value::Int(1), Value::UInt(u64::MAX)], DataType::UInt64, false),
            (vec![Value::UInt(u64::MAX), Value::Int(-1)], DataType::Utf8, true),
            (vec![Value::Float(1.5)], DataType::Float64, false),
            (vec![Value::Float(1.5), Value::Int(1)], DataType::Utf8, true),
            (vec![decimal("1.50"), decimal("-2.25")], DataType::Decimal128(38, 2), false),
            (vec![decimal("1.50"), decimal("1.5")], DataType::Utf8, true),
            (vec![Value::String("x".into())], DataType::Utf8, false),
            (vec![Value::Binary(vec![1])], DataType::Binary, false),
            (vec![Value::Date(1)], DataType::Date32, false),
            (vec![Value::Timestamp(1)], utc, false),
            (vec![list(), Value::Null], DataType::Utf8, true),
            (vec![list(), Value::String("x".into())], DataType::Utf8, true),
            (vec![Value::Null], DataType::Utf8, false),
        ] {
            let batch = decoded(Op::Upsert, &patches(values.clone()));
            let schema = batch.schema();
            let field = schema.field(2);
            assert_eq!(field.data_type(), &expected, "{values:?}");
            assert_eq!(field.metadata().get(EXTENSION).map(String::as_str) == Some(ARROW_JSON), json, "{values:?}");
            for (row, value) in values.iter().enumerate() {
                assert_eq!(batch.column(2).is_null(row), *value == Value::Null, "{values:?}");
            }
        }
        let mixed = decoded(Op::Upsert, &patches(vec![decimal("1.50"), Value::String("q\"".into())]));
        assert_eq!(mixed.column(2).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["1.50", "\"q\\\"\""]);
    }

    #[test]
    fn texts_of_json_fields_are_json_however_often_they_are_read() {
        let values = vec![Value::String("plain".into()), Value::Int(1), Value::Null, Value::String("{\"a\":1}".into())];
        let batch = decoded_as(ValueType::Json, Op::Upsert, &patches(values.clone()));
        assert!(batch.schema().field(2).metadata().is_empty());
        for (row, value) in values.into_iter().enumerate() {
            let cell = batch.column(2).is_valid(row).then(|| batch.column(2).as_string::<i32>().value(row));
            let received = cell.map_or(Value::Null, |text| Value::String(text.into()));
            assert_eq!(received.convert(ValueType::Json), Ok(value));
        }
    }

    #[test]
    fn columns_say_what_their_nulls_do() {
        for nulls in Nulls::ALL {
            let fields = [(FieldName::new("f").unwrap(), ValueType::Any, nulls)];
            let body = body(Op::Upsert, &patches(vec![Value::Null, Value::Int(1)]), &fields).unwrap();
            let batch = StreamReader::try_new(body.as_ref(), None).unwrap().next().unwrap().unwrap();
            let expected = (nulls != Nulls::Write).then(|| nulls.as_str());
            assert_eq!(batch.schema().field(2).metadata().get(ARROW_NULLS).map(String::as_str), expected);
        }
    }

    #[test]
    fn removals_carry_keys_and_nothing_else() {
        let batch = decoded(Op::Delete, &patches(vec![Value::Null]));
        assert_eq!(batch.num_columns(), 2);
        assert_eq!(batch.column(0).as_string::<i32>().value(0), "k0");
        assert_eq!(batch.column(1).as_string::<i32>().value(0), "delete");
    }
}
