//! Columns: reading cells out of Arrow arrays of every type that a warehouse sends.
//!
//! Types are folded before rows are read: a dictionary becomes its values, narrow integers become wide, the three
//! kinds of text become one. So a driver that changes its mind about widths does not make every row look changed.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, LargeBinaryArray, LargeStringArray, PrimitiveArray};
use arrow_buffer::NullBuffer;
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, TimeUnit};
use larder_types::api::ARROW_JSON;
use larder_types::decimal::{Decimal, DecimalError};
use larder_types::json::Fragment;
use larder_types::time::{is_date, is_timestamp};
use larder_types::value::{Value, ValueType};

use super::cell::{self, Cell, CellFault};

const EXTENSION: &str = "ARROW:extension:name";
const ARROW_UUID: &str = "arrow.uuid";
/// A type that only the database knows, in a form that its driver chose.
const ARROW_OPAQUE: &str = "arrow.opaque";
const EXTENSION_METADATA: &str = "ARROW:extension:metadata";
/// Names under which databases keep numbers of as many digits as one likes; they arrive as texts.
const NUMBERS: [&str; 3] = ["numeric", "decimal", "bignumeric"];

/// One column of one batch, ready to be read row by row.
pub(crate) enum Column {
    Null,
    Bool(BooleanArray),
    Int(PrimitiveArray<Int64Type>),
    UInt(PrimitiveArray<UInt64Type>),
    Float32(PrimitiveArray<Float32Type>),
    Float64(PrimitiveArray<Float64Type>),
    Decimal128(PrimitiveArray<Decimal128Type>, i8),
    Decimal256(PrimitiveArray<Decimal256Type>, i8),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<Time64MicrosecondType>),
    /// Counts of a unit since 1970, and the unit.
    Timestamp(PrimitiveArray<Int64Type>, TimeUnit),
    Text(LargeStringArray),
    /// Decimals, each with a scale of its own.
    Number(LargeStringArray),
    Json(LargeStringArray),
    Binary(LargeBinaryArray),
    Uuid(LargeBinaryArray),
    /// The elements of all rows, and where each row's begin and end.
    List(Nested),
    /// Keys and values of all rows.
    Map(Box<Column>, Nested),
    Struct(Vec<(String, Column)>, Option<NullBuffer>),
}

pub(crate) struct Nested {
    items: Box<Column>,
    ranges: Vec<(usize, usize)>,
    nulls: Option<NullBuffer>,
}

/// Tells whether cells can be read from columns of this type.
pub(crate) fn is_supported(field: &Field) -> bool {
    let Some(kind) = folded(field) else { return false };
    if opaque_type(field).is_some() && kind != DataType::LargeUtf8 {
        return false;
    }
    (kind == *field.data_type() || can_cast_types(field.data_type(), &kind))
        && match &kind {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => is_supported(item),
            DataType::Map(entries, _) => is_supported(entries),
            DataType::Struct(members) => members.iter().all(|member| is_supported(member)),
            _ => true,
        }
}

/// Tells whether cells of this type have the one text that a key needs.
pub(crate) fn can_be_key(field: &Field) -> bool {
    !matches!(
        folded(field),
        None | Some(
            DataType::Float32
                | DataType::Float64
                | DataType::LargeBinary
                | DataType::List(_)
                | DataType::LargeList(_)
                | DataType::FixedSizeList(..)
                | DataType::Map(..)
                | DataType::Struct(_)
        )
    ) || field.metadata().get(EXTENSION).map(String::as_str) == Some(ARROW_UUID)
}

/// The database's name for a type that only it knows; empty if the driver does not tell.
pub(crate) fn opaque_type(field: &Field) -> Option<String> {
    // Arrives as a plain count of hundredths, or of whatever the server's locale makes of it.
    if let Some(kind) = field.metadata().get("POSTGRESQL:type").filter(|kind| *kind == "money") {
        return Some(kind.clone());
    }
    if field.metadata().get(EXTENSION).map(String::as_str) != Some(ARROW_OPAQUE) {
        return None;
    }
    let details = field.metadata().get(EXTENSION_METADATA).map_or("", String::as_str);
    let details: serde_json::Value = serde_json::from_str(details).unwrap_or_default();
    Some(details["type_name"].as_str().unwrap_or_default().to_owned())
}

fn is_number(field: &Field) -> bool {
    opaque_type(field).is_some_and(|name| NUMBERS.iter().any(|number| number.eq_ignore_ascii_case(&name)))
}

/// The type that stands for a column's own; `None` if it cannot be read.
fn folded(field: &Field) -> Option<DataType> {
    let kind = match field.data_type() {
        DataType::Dictionary(_, values) => folded(&unwrapped(field, values))?,
        DataType::RunEndEncoded(_, values) => folded(&unwrapped(field, values.data_type()))?,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            DataType::Int64
        }
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Utf8 | DataType::Utf8View => DataType::LargeUtf8,
        DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::LargeBinary,
        DataType::ListView(item) => DataType::List(Arc::clone(item)),
        DataType::LargeListView(item) => DataType::LargeList(Arc::clone(item)),
        DataType::Duration(_) | DataType::Interval(_) | DataType::Union(..) => return None,
        plain => plain.clone(),
    };
    Some(kind)
}

fn unwrapped(field: &Field, values: &DataType) -> Field {
    field.clone().with_data_type(values.clone())
}

impl Column {
    /// Makes the cells of `array` readable; `field` is its description.
    ///
    /// # Errors
    /// When the type is not supported, which [`is_supported`] tells beforehand, or Arrow cannot convert a value.
    pub(crate) fn new(field: &Field, array: &ArrayRef) -> Result<Self, ArrowError> {
        let unsupported = || ArrowError::NotYetImplemented(format!("columns of type {}", field.data_type()));
        let kind = folded(field).ok_or_else(unsupported)?;
        let array = if kind == *array.data_type() {
            Arc::clone(array)
        } else {
            // Not `safe`: that would turn values that do not fit into nulls without a word.
            cast_with_options(array, &kind, &CastOptions { safe: false, ..CastOptions::default() })?
        };
        let extension = field.metadata().get(EXTENSION).map(String::as_str);
        Ok(match &kind {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            DataType::Int64 => Self::Int(primitive(&array)),
            DataType::UInt64 => Self::UInt(primitive(&array)),
            DataType::Float32 => Self::Float32(primitive(&array)),
            DataType::Float64 => Self::Float64(primitive(&array)),
            DataType::Decimal128(_, scale) => Self::Decimal128(primitive(&array), *scale),
            DataType::Decimal256(_, scale) => Self::Decimal256(primitive(&array), *scale),
            DataType::Date32 => Self::Date(primitive(&array)),
            DataType::Time64(_) => Self::Time(primitive(&array)),
            DataType::Timestamp(unit, _) => Self::Timestamp(counts(&array, *unit), *unit),
            DataType::LargeUtf8 if extension == Some(ARROW_JSON) => Self::Json(array.as_string().clone()),
            DataType::LargeUtf8 if is_number(field) => Self::Number(array.as_string().clone()),
            DataType::LargeUtf8 => Self::Text(array.as_string().clone()),
            DataType::LargeBinary if extension == Some(ARROW_UUID) => Self::Uuid(array.as_binary().clone()),
            DataType::LargeBinary => Self::Binary(array.as_binary().clone()),
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                Self::List(list(&array, &kind)?)
            }
            DataType::Map(..) => map(&array)?,
            DataType::Struct(_) => structure(&array)?,
            _ => return Err(unsupported()),
        })
    }

    /// Appends the cell of one row.
    pub(crate) fn put(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            // The common and only costly case: no copy of the text on the way.
            Self::Text(array) if array.is_valid(row) => cell::put_text(array.value(row), out),
            _ => cell::put(&self.cell(row), out),
        }
    }

    /// The cell of one row.
    pub(crate) fn cell(&self, row: usize) -> Cell {
        if self.is_null(row) {
            return Ok(Value::Null);
        }
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(array) => Value::Bool(array.value(row)),
            Self::Int(array) => Value::Int(array.value(row)),
            Self::UInt(array) => Value::from_u64(array.value(row)),
            Self::Float32(array) => Value::Float(widen(array.value(row))),
            Self::Float64(array) => Value::Float(array.value(row)),
            Self::Decimal128(array, scale) => decimal(array.value(row), *scale)?,
            Self::Decimal256(array, scale) => {
                decimal(array.value(row).to_i128().ok_or(CellFault::TooManyDigits)?, *scale)?
            }
            Self::Date(array) => Value::Date(writable(array.value(row), is_date)?),
            Self::Time(array) => Value::String(time_of_day(array.value(row))),
            Self::Timestamp(array, unit) => Value::Timestamp(writable(micros(array.value(row), *unit)?, is_timestamp)?),
            Self::Text(array) => Value::String(array.value(row).to_owned()),
            Self::Number(array) => Value::Decimal(array.value(row).parse().map_err(not_a_decimal)?),
            Self::Json(array) => Value::from_json(array.value(row)).map_err(|_| CellFault::InvalidJson)?,
            Self::Binary(array) => Value::Binary(array.value(row).to_vec()),
            Self::Uuid(array) => Value::String(uuid(array.value(row))),
            Self::List(nested) => Value::List(list_json(nested, row)?),
            Self::Map(keys, values) => Value::Struct(map_json(keys, values, row)?),
            Self::Struct(members, _) => Value::Struct(struct_json(members, row)?),
        })
    }

    /// A cell inside a list or struct, where no declared type will look at it.
    fn inner(&self, row: usize) -> Cell {
        self.cell(row)?.convert(ValueType::Any).map_err(|_| CellFault::NotJson)
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(array) => array.is_null(row),
            Self::Int(array) | Self::Timestamp(array, _) => array.is_null(row),
            Self::UInt(array) => array.is_null(row),
            Self::Float32(array) => array.is_null(row),
            Self::Float64(array) => array.is_null(row),
            Self::Decimal128(array, _) => array.is_null(row),
            Self::Decimal256(array, _) => array.is_null(row),
            Self::Date(array) => array.is_null(row),
            Self::Time(array) => array.is_null(row),
            Self::Text(array) | Self::Number(array) | Self::Json(array) => array.is_null(row),
            Self::Binary(array) | Self::Uuid(array) => array.is_null(row),
            Self::List(nested) | Self::Map(_, nested) => nested.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)),
            Self::Struct(_, nulls) => nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)),
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> PrimitiveArray<T> {
    array.as_primitive::<T>().clone()
}

fn counts(array: &ArrayRef, unit: TimeUnit) -> PrimitiveArray<Int64Type> {
    match unit {
        TimeUnit::Second => primitive::<TimestampSecondType>(array).reinterpret_cast(),
        TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(array).reinterpret_cast(),
        TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(array).reinterpret_cast(),
        TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(array).reinterpret_cast(),
    }
}

/// A date or timestamp that text can name. Databases have others, such as PostgreSQL's `infinity`, and as text in a key
/// or template they would all be some date of the year 1.
fn writable<T: Copy>(time: T, is_writable: fn(T) -> bool) -> Result<T, CellFault> {
    if is_writable(time) { Ok(time) } else { Err(CellFault::OutOfRange) }
}

fn micros(count: i64, unit: TimeUnit) -> Result<i64, CellFault> {
    match unit {
        TimeUnit::Second => count.checked_mul(1_000_000),
        TimeUnit::Millisecond => count.checked_mul(1_000),
        TimeUnit::Microsecond => Some(count),
        TimeUnit::Nanosecond => Some(count.div_euclid(1_000)),
    }
    .ok_or(CellFault::OutOfRange)
}

/// A single-precision number as the double that prints the same: 0.1 stays 0.1, not 0.10000000149011612.
fn widen(float: f32) -> f64 {
    if float.is_finite() { float.to_string().parse().unwrap_or(f64::from(float)) } else { f64::from(float) }
}

fn decimal(mantissa: i128, scale: i8) -> Cell {
    let shift = u32::from(scale.unsigned_abs());
    let whole =
        if scale < 0 { 10i128.checked_pow(shift).and_then(|unit| mantissa.checked_mul(unit)) } else { Some(mantissa) };
    let scale = u8::try_from(scale.max(0)).map_err(|_| CellFault::TooManyDigits)?;
    whole.and_then(|mantissa| Decimal::new(mantissa, scale).ok()).map(Value::Decimal).ok_or(CellFault::TooManyDigits)
}

fn not_a_decimal(error: DecimalError) -> CellFault {
    match error {
        DecimalError::Syntax => CellFault::NotANumber,
        _ => CellFault::TooManyDigits,
    }
}

fn time_of_day(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 { clock } else { format!("{clock}.{fraction:06}") }
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

fn list(array: &ArrayRef, kind: &DataType) -> Result<Nested, ArrowError> {
    let (field, items, ranges): (_, _, Vec<(usize, usize)>) = match kind {
        DataType::List(field) => {
            let list = array.as_list::<i32>();
            (
                field,
                list.values(),
                list.offsets()
                    .windows(2)
                    .map(|w| (w[0].unsigned_abs() as usize, w[1].unsigned_abs() as usize))
                    .collect(),
            )
        }
        DataType::LargeList(field) => {
            let list = array.as_list::<i64>();
            let at = |offset: i64| usize::try_from(offset).unwrap_or(0);
            (field, list.values(), list.offsets().windows(2).map(|w| (at(w[0]), at(w[1]))).collect())
        }
        DataType::FixedSizeList(field, _) => {
            let list = array.as_fixed_size_list();
            let size = list.value_length().unsigned_abs() as usize;
            (field, list.values(), (0..list.len()).map(|row| (row * size, (row + 1) * size)).collect())
        }
        other => return Err(ArrowError::NotYetImplemented(format!("lists of type {other}"))),
    };
    Ok(Nested { items: Box::new(Column::new(field, items)?), ranges, nulls: array.nulls().cloned() })
}

fn map(array: &ArrayRef) -> Result<Column, ArrowError> {
    let map = array.as_map();
    let (keys, values) = map.entries_fields();
    let ranges =
        map.offsets().windows(2).map(|w| (w[0].unsigned_abs() as usize, w[1].unsigned_abs() as usize)).collect();
    let items = Box::new(Column::new(values, map.values())?);
    let nested = Nested { items, ranges, nulls: map.nulls().cloned() };
    Ok(Column::Map(Box::new(Column::new(keys, map.keys())?), nested))
}

fn structure(array: &ArrayRef) -> Result<Column, ArrowError> {
    let array = array.as_struct();
    let members = array
        .fields()
        .iter()
        .zip(array.columns())
        .map(|(field, column)| Ok((field.name().clone(), Column::new(field, column)?)))
        .collect::<Result<Vec<_>, ArrowError>>()?;
    Ok(Column::Struct(members, array.nulls().cloned()))
}

fn list_json(nested: &Nested, row: usize) -> Result<Fragment, CellFault> {
    let (start, end) = nested.ranges[row];
    let items = (start..end).map(|at| nested.items.inner(at)).collect::<Result<Vec<_>, _>>()?;
    Fragment::list(&items).map_err(|_| CellFault::TooDeep)
}

fn map_json(keys: &Column, nested: &Nested, row: usize) -> Result<Fragment, CellFault> {
    let (start, end) = nested.ranges[row];
    let mut names = Vec::with_capacity(end - start);
    let mut values = Vec::with_capacity(end - start);
    for at in start..end {
        names.push(keys.cell(at)?.to_text());
        values.push(nested.items.inner(at)?);
    }
    Fragment::object(names.iter().map(String::as_str).zip(&values)).map_err(|_| CellFault::TooDeep)
}

fn struct_json(members: &[(String, Column)], row: usize) -> Result<Fragment, CellFault> {
    let values = members.iter().map(|(_, column)| column.inner(row)).collect::<Result<Vec<_>, _>>()?;
    Fragment::object(members.iter().map(|(name, _)| name.as_str()).zip(&values)).map_err(|_| CellFault::TooDeep)
}
