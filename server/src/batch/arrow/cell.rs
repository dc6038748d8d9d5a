//! One cell of an Arrow array as a value.
//!
//! Invariant: the work and memory for one row are bounded by a [`Budget`], because in Arrow a few bytes can stand for
//! any amount of data (dictionaries, views, lists of nulls).

use arrow_array::cast::AsArray as _;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType};
use arrow_schema::{DataType, TimeUnit};
use larder_types::decimal::Decimal;
use larder_types::json::Fragment;
use larder_types::limits::{MAX_DEPTH, MAX_RECORD_BYTES};
use larder_types::time::{MICROS_PER_DAY, write_timestamp};
use larder_types::value::Value;

use super::super::validate::{Fault, weight};

/// What the cells of one row may cost: nested values count once at each level.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn of_a_row() -> Self {
        Self(4 * MAX_RECORD_BYTES)
    }

    fn spend(&mut self, cost: usize) -> Result<(), Fault> {
        self.0 = self.0.checked_sub(cost).ok_or_else(Fault::too_large)?;
        Ok(())
    }
}

/// Tells whether cells of a type can be read.
pub(super) fn is_supported(kind: &DataType) -> bool {
    supported(kind, MAX_DEPTH)
}

fn supported(kind: &DataType, depth: usize) -> bool {
    let Some(deeper) = depth.checked_sub(1) else { return false };
    match kind {
        DataType::FixedSizeBinary(size) => *size >= 0,
        DataType::FixedSizeList(item, size) => *size >= 0 && supported(item.data_type(), deeper),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => supported(item.data_type(), deeper),
        DataType::Struct(members) => members.iter().all(|member| supported(member.data_type(), deeper)),
        DataType::Dictionary(_, values) => supported(values, deeper),
        DataType::Duration(_) | DataType::Interval(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
        _ => true,
    }
}

/// The value of one cell.
///
/// # Errors
/// When the value is outside what Larder keeps, or the budget is spent.
pub(super) fn read(array: &dyn Array, row: usize, budget: &mut Budget) -> Result<Value, Fault> {
    let value = if matches!(array.data_type(), DataType::Null) || array.is_null(row) {
        Value::Null
    } else {
        read_present(array, row, budget)?
    };
    budget.spend(weight(&value))?;
    Ok(value)
}

fn read_present(array: &dyn Array, row: usize, budget: &mut Budget) -> Result<Value, Fault> {
    Ok(match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => Value::Int(number::<Int8Type>(array, row).into()),
        DataType::Int16 => Value::Int(number::<Int16Type>(array, row).into()),
        DataType::Int32 => Value::Int(number::<Int32Type>(array, row).into()),
        DataType::Int64 => Value::Int(number::<Int64Type>(array, row)),
        DataType::UInt8 => Value::Int(number::<UInt8Type>(array, row).into()),
        DataType::UInt16 => Value::Int(number::<UInt16Type>(array, row).into()),
        DataType::UInt32 => Value::Int(number::<UInt32Type>(array, row).into()),
        DataType::UInt64 => Value::from_u64(number::<UInt64Type>(array, row)),
        DataType::Float16 => Value::Float(number::<Float16Type>(array, row).to_f64()),
        DataType::Float32 => Value::Float(number::<Float32Type>(array, row).into()),
        DataType::Float64 => Value::Float(number::<Float64Type>(array, row)),
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            decimal(array, row)?
        }
        DataType::Utf8 => text(array.as_string::<i32>().value(row), budget)?,
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row), budget)?,
        DataType::Utf8View => text(array.as_string_view().value(row), budget)?,
        DataType::Binary => bytes(array.as_binary::<i32>().value(row), budget)?,
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row), budget)?,
        DataType::BinaryView => bytes(array.as_binary_view().value(row), budget)?,
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row), budget)?,
        DataType::Date32 => Value::Date(number::<Date32Type>(array, row)),
        DataType::Date64 => date(number::<Date64Type>(array, row))?,
        DataType::Timestamp(unit, _) => timestamp(array, row, *unit)?,
        DataType::Time32(_) | DataType::Time64(_) => time(array, row)?,
        _ => return read_nested(array, row, budget),
    })
}

fn read_nested(array: &dyn Array, row: usize, budget: &mut Budget) -> Result<Value, Fault> {
    match array.data_type() {
        DataType::List(_) => list(&array.as_list::<i32>().value(row), budget),
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), budget),
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), budget),
        DataType::ListView(_) => list(&array.as_list_view::<i32>().value(row), budget),
        DataType::LargeListView(_) => list(&array.as_list_view::<i64>().value(row), budget),
        DataType::Struct(members) => {
            let columns = members.iter().zip(array.as_struct().columns());
            let values = columns
                .map(|(member, column)| Ok((member.name().as_str(), read(column.as_ref(), row, budget)?)))
                .collect::<Result<Vec<_>, Fault>>()?;
            object(&values, budget)
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let pairs = (0..entries.len())
                .map(|at| Ok((read(keys.as_ref(), at, budget)?.to_text(), read(values.as_ref(), at, budget)?)))
                .collect::<Result<Vec<_>, Fault>>()?;
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            object(&pairs, budget)
        }
        DataType::Dictionary(key, _) => {
            let values = array.as_any_dictionary().values();
            match dictionary_place(array, row, key) {
                Some(place) => read(values.as_ref(), place, budget),
                None => Ok(Value::Null),
            }
        }
        other => Err(outside(&format!("a value of the Arrow type {other}"))),
    }
}

fn number<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

/// Spends before it copies.
fn text(text: &str, budget: &mut Budget) -> Result<Value, Fault> {
    budget.spend(text.len())?;
    Ok(Value::String(text.to_owned()))
}

fn bytes(bytes: &[u8], budget: &mut Budget) -> Result<Value, Fault> {
    budget.spend(bytes.len())?;
    Ok(Value::Binary(bytes.to_vec()))
}

fn list(items: &dyn Array, budget: &mut Budget) -> Result<Value, Fault> {
    let values = (0..items.len()).map(|at| read(items, at, budget)).collect::<Result<Vec<_>, Fault>>()?;
    for value in &values {
        check_finite(value)?;
    }
    let fragment = Fragment::list(&values).map_err(|e| outside(&e.to_string()))?;
    Ok(Value::List(fragment))
}

fn object(members: &[(&str, Value)], budget: &mut Budget) -> Result<Value, Fault> {
    for (name, value) in members {
        budget.spend(name.len())?;
        check_finite(value)?;
    }
    // Arrow allows it in structs and cannot rule it out in maps; of such JSON every parser makes something else.
    let mut names: Vec<_> = members.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(outside("an object that names a member twice"));
    }
    let fragment =
        Fragment::object(members.iter().map(|(name, value)| (*name, value))).map_err(|e| outside(&e.to_string()))?;
    Ok(Value::Struct(fragment))
}

/// Within lists and objects a value becomes JSON text at once, so what JSON cannot say must be found here.
fn check_finite(value: &Value) -> Result<(), Fault> {
    use larder_types::time::{is_date, is_timestamp};
    match value {
        Value::Float(float) if !float.is_finite() => Err(outside("a float that is infinite or not a number")),
        Value::Date(days) if !is_date(*days) => Err(outside("a date outside the years 0001 to 9999")),
        Value::Timestamp(micros) if !is_timestamp(*micros) => {
            Err(outside("a timestamp outside the years 0001 to 9999"))
        }
        _ => Ok(()),
    }
}

fn decimal(array: &dyn Array, row: usize) -> Result<Value, Fault> {
    let (mantissa, scale) = match array.data_type() {
        DataType::Decimal32(_, scale) => (Some(number::<Decimal32Type>(array, row).into()), *scale),
        DataType::Decimal64(_, scale) => (Some(number::<Decimal64Type>(array, row).into()), *scale),
        DataType::Decimal128(_, scale) => (Some(number::<Decimal128Type>(array, row)), *scale),
        DataType::Decimal256(_, scale) => (number::<Decimal256Type>(array, row).to_i128(), *scale),
        _ => (None, 0),
    };
    let whole = |mantissa: i128| match u8::try_from(scale) {
        Ok(scale) => Decimal::new(mantissa, scale).ok(),
        // A negative scale counts zeros before the point.
        Err(_) => {
            let factor = 10i128.checked_pow(u32::from(scale.unsigned_abs()))?;
            Decimal::new(mantissa.checked_mul(factor)?, 0).ok()
        }
    };
    mantissa.and_then(whole).map(Value::Decimal).ok_or_else(|| outside("a decimal of more than 38 digits"))
}

fn date(millis: i64) -> Result<Value, Fault> {
    let days = i32::try_from(millis.div_euclid(MICROS_PER_DAY / 1000));
    days.map(Value::Date).map_err(|_| outside("a date outside the years 0001 to 9999"))
}

/// Without a time zone Arrow means local time of nowhere; it is taken as UTC, like everywhere else in Larder.
fn timestamp(array: &dyn Array, row: usize, unit: TimeUnit) -> Result<Value, Fault> {
    let micros = match unit {
        TimeUnit::Second => number::<TimestampSecondType>(array, row).checked_mul(1_000_000),
        TimeUnit::Millisecond => number::<TimestampMillisecondType>(array, row).checked_mul(1000),
        TimeUnit::Microsecond => Some(number::<TimestampMicrosecondType>(array, row)),
        TimeUnit::Nanosecond => Some(number::<TimestampNanosecondType>(array, row).div_euclid(1000)),
    };
    micros.map(Value::Timestamp).ok_or_else(|| outside("a timestamp outside the years 0001 to 9999"))
}

/// A time of day becomes text, `05:15:00` or with a fraction, as databases print it.
fn time(array: &dyn Array, row: usize) -> Result<Value, Fault> {
    let micros = match array.data_type() {
        DataType::Time32(TimeUnit::Second) => i64::from(number::<Time32SecondType>(array, row)).checked_mul(1_000_000),
        DataType::Time32(_) => i64::from(number::<Time32MillisecondType>(array, row)).checked_mul(1000),
        DataType::Time64(TimeUnit::Microsecond) => Some(number::<Time64MicrosecondType>(array, row)),
        _ => Some(number::<Time64NanosecondType>(array, row).div_euclid(1000)),
    };
    let micros = micros.filter(|micros| (0..MICROS_PER_DAY).contains(micros));
    let mut text = String::new();
    write_timestamp(micros.ok_or_else(|| outside("a time of day outside 24 hours"))?, &mut text);
    let time = text.split_once('T').and_then(|(_, time)| time.strip_suffix('Z')).unwrap_or_default();
    Ok(Value::String(time.to_owned()))
}

fn dictionary_place(array: &dyn Array, row: usize, key: &DataType) -> Option<usize> {
    match key {
        DataType::Int8 => array.as_dictionary::<Int8Type>().key(row),
        DataType::Int16 => array.as_dictionary::<Int16Type>().key(row),
        DataType::Int32 => array.as_dictionary::<Int32Type>().key(row),
        DataType::Int64 => array.as_dictionary::<Int64Type>().key(row),
        DataType::UInt8 => array.as_dictionary::<UInt8Type>().key(row),
        DataType::UInt16 => array.as_dictionary::<UInt16Type>().key(row),
        DataType::UInt32 => array.as_dictionary::<UInt32Type>().key(row),
        DataType::UInt64 => array.as_dictionary::<UInt64Type>().key(row),
        _ => None,
    }
}

fn outside(what: &str) -> Fault {
    Fault::new("invalid_value", what)
}
