//! Cells: one source value as bytes, in the one form that every driver and every width of a type leads to.
//!
//! A row is its mapped cells one after the other, in the mapping's order of columns. The same bytes are hashed to find
//! out whether a row changed and spilled to be mapped later, so two rules hold: equal values have equal bytes whatever
//! Arrow type carried them, and the bytes read back as the value.
//!
//! | tag | content |
//! | --- | --- |
//! | 0 null, 1 false, 2 true | none |
//! | 3 integer | i64 |
//! | 4 integer above i64 | u64 |
//! | 5 float | f64; -0 is written as 0, every NaN as one NaN |
//! | 6 decimal | i128 mantissa, u8 scale |
//! | 7 text, 8 binary, 11 list, 12 object | u32 length, bytes (lists and objects: JSON) |
//! | 9 date | i32 days |
//! | 10 timestamp | i64 microseconds |
//! | 13 fault | u8, see [`CellFault`] |
//!
//! Numbers are little-endian.

use larder_types::decimal::Decimal;
use larder_types::json::Fragment;
use larder_types::value::Value;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const UINT: u8 = 4;
const FLOAT: u8 = 5;
const DECIMAL: u8 = 6;
const TEXT: u8 = 7;
const BINARY: u8 = 8;
const DATE: u8 = 9;
const TIMESTAMP: u8 = 10;
const LIST: u8 = 11;
const OBJECT: u8 = 12;
const FAULT: u8 = 13;

/// Why a source value cannot be held. It travels in the row's bytes, because one bad cell rejects one row and only
/// the mapping knows whether the cell is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub(crate) enum CellFault {
    /// A date or timestamp that text cannot name.
    #[error("holds a date or timestamp outside the years 0001 to 9999, such as `infinity`")]
    OutOfRange = 0,
    /// A decimal of more than 38 digits.
    #[error("holds a decimal of more than 38 digits")]
    TooManyDigits = 1,
    /// Text in a JSON column that is not JSON, or is nested too deep.
    #[error("holds text that is not valid JSON")]
    InvalidJson = 2,
    /// A list or struct that is nested too deep.
    #[error("holds a value that is nested too deep")]
    TooDeep = 3,
    /// A list or struct with a number that is not finite, or a time outside the years that text can name.
    #[error("holds a list or struct with a number or time that JSON cannot hold")]
    NotJson = 4,
    /// A number without digits: NaN or infinity in a column of decimals.
    #[error("holds a number that is not finite")]
    NotANumber = 5,
}

impl CellFault {
    /// All faults, each at the place of its number.
    const ALL: [Self; 6] =
        [Self::OutOfRange, Self::TooManyDigits, Self::InvalidJson, Self::TooDeep, Self::NotJson, Self::NotANumber];
}

/// What a cell holds.
pub(crate) type Cell = Result<Value, CellFault>;

/// Bytes that no cell was written as: the file that held them is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes that are not a row")]
pub(crate) struct NotARow;

/// Appends a cell.
pub(crate) fn put(cell: &Cell, out: &mut Vec<u8>) {
    match cell {
        Ok(value) => put_value(value, out),
        Err(fault) => out.extend_from_slice(&[FAULT, *fault as u8]),
    }
}

/// Appends a text cell.
pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_bytes(TEXT, text.as_bytes(), out);
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Int(number) => put_fixed(INT, &number.to_le_bytes(), out),
        Value::UInt(number) => put_fixed(UINT, &number.to_le_bytes(), out),
        Value::Float(float) => put_fixed(FLOAT, &canonical(*float).to_bits().to_le_bytes(), out),
        Value::Decimal(decimal) => {
            put_fixed(DECIMAL, &decimal.mantissa().to_le_bytes(), out);
            out.push(decimal.scale());
        }
        Value::String(text) => put_text(text, out),
        Value::Binary(bytes) => put_bytes(BINARY, bytes, out),
        Value::Date(days) => put_fixed(DATE, &days.to_le_bytes(), out),
        Value::Timestamp(micros) => put_fixed(TIMESTAMP, &micros.to_le_bytes(), out),
        Value::List(json) => put_bytes(LIST, json.as_str().as_bytes(), out),
        Value::Struct(json) => put_bytes(OBJECT, json.as_str().as_bytes(), out),
    }
}

fn canonical(float: f64) -> f64 {
    if float.is_nan() {
        f64::NAN
    } else if float == 0.0 {
        0.0
    } else {
        float
    }
}

fn put_fixed(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

#[allow(clippy::expect_used, reason = "Arrow offsets and our own texts stay far below 4 GiB a cell")]
fn put_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("a cell is smaller than 4 GiB");
    put_fixed(tag, &len.to_le_bytes(), out);
    out.extend_from_slice(bytes);
}

/// Reads one cell and moves `bytes` past it.
///
/// # Errors
/// When the bytes are not a cell.
pub(crate) fn take(bytes: &mut &[u8]) -> Result<Cell, NotARow> {
    let [tag] = take_fixed(bytes)?;
    let value = match tag {
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        INT => Value::Int(i64::from_le_bytes(take_fixed(bytes)?)),
        UINT => Value::UInt(u64::from_le_bytes(take_fixed(bytes)?)),
        FLOAT => Value::Float(f64::from_bits(u64::from_le_bytes(take_fixed(bytes)?))),
        DECIMAL => {
            let mantissa = i128::from_le_bytes(take_fixed(bytes)?);
            let [scale] = take_fixed(bytes)?;
            Value::Decimal(Decimal::new(mantissa, scale).map_err(|_| NotARow)?)
        }
        TEXT => Value::String(take_text(bytes)?.to_owned()),
        BINARY => Value::Binary(take_bytes(bytes)?.to_vec()),
        DATE => Value::Date(i32::from_le_bytes(take_fixed(bytes)?)),
        TIMESTAMP => Value::Timestamp(i64::from_le_bytes(take_fixed(bytes)?)),
        LIST => Value::List(Fragment::trusted(take_text(bytes)?)),
        OBJECT => Value::Struct(Fragment::trusted(take_text(bytes)?)),
        FAULT => {
            let [code] = take_fixed(bytes)?;
            return CellFault::ALL.get(usize::from(code)).map(|fault| Err(*fault)).ok_or(NotARow);
        }
        _ => return Err(NotARow),
    };
    Ok(Ok(value))
}

fn take_fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NotARow> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(NotARow)?;
    *bytes = rest;
    Ok(*head)
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], NotARow> {
    let len = u32::from_le_bytes(take_fixed(bytes)?) as usize;
    let (head, rest) = bytes.split_at_checked(len).ok_or(NotARow)?;
    *bytes = rest;
    Ok(head)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, NotARow> {
    std::str::from_utf8(take_bytes(bytes)?).map_err(|_| NotARow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(cell: &Cell) -> Vec<u8> {
        let mut out = Vec::new();
        put(cell, &mut out);
        out
    }

    #[test]
    fn every_kind_of_cell_reads_back() {
        let cells: Vec<Cell> = vec![
            Ok(Value::Null),
            Ok(Value::Bool(true)),
            Ok(Value::Bool(false)),
            Ok(Value::Int(-5)),
            Ok(Value::UInt(u64::MAX)),
            Ok(Value::Float(1.5)),
            Ok(Value::Decimal("-33.50".parse().unwrap())),
            Ok(Value::String("é".into())),
            Ok(Value::Binary(vec![0, 255])),
            Ok(Value::Date(-1)),
            Ok(Value::Timestamp(1)),
            Ok(Value::List(Fragment::parse("[1]").unwrap())),
            Ok(Value::Struct(Fragment::parse("{\"a\":[]}").unwrap())),
            Err(CellFault::OutOfRange),
            Err(CellFault::TooManyDigits),
            Err(CellFault::InvalidJson),
            Err(CellFault::TooDeep),
            Err(CellFault::NotJson),
        ];
        let mut row = Vec::new();
        cells.iter().for_each(|cell| put(cell, &mut row));
        let mut rest = row.as_slice();
        for cell in &cells {
            assert_eq!(take(&mut rest), Ok(cell.clone()));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn equal_floats_have_equal_bytes() {
        assert_eq!(encoded(&Ok(Value::Float(-0.0))), encoded(&Ok(Value::Float(0.0))));
        assert_eq!(encoded(&Ok(Value::Float(-f64::NAN))), encoded(&Ok(Value::Float(f64::NAN))));
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && take(&mut rest).is_ok() {}
        }
    }
}
