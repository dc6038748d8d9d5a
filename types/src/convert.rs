//! Turning a value into the type that its field was declared with.
//!
//! Only conversions that keep the whole value are made; any other is an error that names both types and never the
//! value. The loader converts before it sends and the server before it stores, by this one table.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::decimal::Decimal;
use crate::json::{JsonError, write_float};
use crate::time::{MICROS_PER_DAY, is_date, is_timestamp, parse_date, parse_timestamp};
use crate::value::{Value, ValueType};

/// Integers up to this size are doubles exactly.
const EXACT_DOUBLE: u64 = 1 << 53;

/// Why a value cannot take a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// No rule leads from this kind of value, or from this very value, to the type.
    #[error("a {from} that cannot become a field of type {to}")]
    Mismatch {
        /// The kind of the value.
        from: &'static str,
        /// The declared type.
        to: ValueType,
    },
    /// Infinite or not a number: JSON has no such value.
    #[error("a float that is infinite or not a number")]
    NotFinite,
    /// A date or timestamp outside the years 0001 to 9999.
    #[error("a {0} outside the years 0001 to 9999")]
    OutOfRange(&'static str),
    /// Text that should hold JSON and does not.
    #[error("a string that is not JSON: {0}")]
    Json(#[from] JsonError),
}

impl Value {
    /// This value as the declared type. Null stays null whatever the type.
    ///
    /// # Errors
    /// When the type cannot hold the whole value.
    pub fn convert(self, to: ValueType) -> Result<Self, ConvertError> {
        self.check_range()?;
        match (self, to) {
            (Self::Null, _) => Ok(Self::Null),
            (value, ValueType::Any) => Ok(value),
            (Self::String(text), ValueType::Json) => Ok(Self::from_json(&text)?),
            (value, ValueType::Json) => Ok(value),
            (value, ValueType::Bool) => value.into_bool(),
            (value, ValueType::Int) => value.into_int(),
            (value, ValueType::Float) => value.into_float(),
            (value, ValueType::Decimal) => value.into_decimal(),
            (value @ Self::String(_), ValueType::String) => Ok(value),
            (value, ValueType::String) => Ok(Self::String(value.to_text())),
            (value, ValueType::Binary) => value.into_binary(),
            (value, ValueType::Date) => value.into_date(),
            (value, ValueType::Timestamp) => value.into_timestamp(),
            (value, ValueType::List | ValueType::Struct) => value.into_nested(to),
        }
    }

    fn check_range(&self) -> Result<(), ConvertError> {
        match self {
            Self::Float(float) if !float.is_finite() => Err(ConvertError::NotFinite),
            Self::Date(days) if !is_date(*days) => Err(ConvertError::OutOfRange("date")),
            Self::Timestamp(micros) if !is_timestamp(*micros) => Err(ConvertError::OutOfRange("timestamp")),
            _ => Ok(()),
        }
    }

    fn mismatch(&self, to: ValueType) -> ConvertError {
        ConvertError::Mismatch { from: self.kind(), to }
    }

    fn into_bool(self) -> Result<Self, ConvertError> {
        let truth = match &self {
            Self::Bool(_) => return Ok(self),
            Self::Int(0) => false,
            Self::Int(1) => true,
            Self::String(text) if text.eq_ignore_ascii_case("true") => true,
            Self::String(text) if text.eq_ignore_ascii_case("false") => false,
            other => return Err(other.mismatch(ValueType::Bool)),
        };
        Ok(Self::Bool(truth))
    }

    fn into_int(self) -> Result<Self, ConvertError> {
        let integer = match &self {
            Self::Int(_) | Self::UInt(_) => return Ok(self),
            Self::Float(float) => float_to_integer(*float),
            Self::Decimal(decimal) => decimal.to_integer(),
            Self::String(text) => text.trim().parse::<i128>().ok(),
            _ => None,
        };
        integer.and_then(integer_value).ok_or_else(|| self.mismatch(ValueType::Int))
    }

    fn into_float(self) -> Result<Self, ConvertError> {
        #[allow(clippy::cast_precision_loss, reason = "the guards admit only integers that a double holds exactly")]
        let float = match &self {
            Self::Float(_) => return Ok(self),
            Self::Int(number) if number.unsigned_abs() <= EXACT_DOUBLE => Some(*number as f64),
            Self::Decimal(decimal) => Some(decimal.to_f64()),
            Self::String(text) => text.trim().parse::<f64>().ok(),
            _ => None,
        };
        float.filter(|f| f.is_finite()).map(Self::Float).ok_or_else(|| self.mismatch(ValueType::Float))
    }

    fn into_decimal(self) -> Result<Self, ConvertError> {
        let decimal = match &self {
            Self::Decimal(_) => return Ok(self),
            Self::Int(number) => Decimal::new(i128::from(*number), 0).ok(),
            Self::UInt(number) => Decimal::new(i128::from(*number), 0).ok(),
            Self::Float(float) => {
                let mut text = String::new();
                write_float(*float, &mut text);
                text.parse().ok()
            }
            Self::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        decimal.map(Self::Decimal).ok_or_else(|| self.mismatch(ValueType::Decimal))
    }

    fn into_binary(self) -> Result<Self, ConvertError> {
        match &self {
            Self::Binary(_) => Ok(self),
            Self::String(text) => BASE64.decode(text).map(Self::Binary).map_err(|_| self.mismatch(ValueType::Binary)),
            other => Err(other.mismatch(ValueType::Binary)),
        }
    }

    fn into_date(self) -> Result<Self, ConvertError> {
        let days = match &self {
            Self::Date(_) => return Ok(self),
            // A timestamp with a time of day would lose it, so only midnight is a date.
            Self::Timestamp(micros) if micros.rem_euclid(MICROS_PER_DAY) == 0 => {
                i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok()
            }
            Self::String(text) if text.trim().len() == 10 => parse_date(text),
            _ => None,
        };
        days.map(Self::Date).ok_or_else(|| self.mismatch(ValueType::Date))
    }

    fn into_timestamp(self) -> Result<Self, ConvertError> {
        let micros = match &self {
            Self::Timestamp(_) => return Ok(self),
            Self::Date(days) => Some(i64::from(*days) * MICROS_PER_DAY),
            Self::String(text) => parse_timestamp(text),
            _ => None,
        };
        micros.map(Self::Timestamp).ok_or_else(|| self.mismatch(ValueType::Timestamp))
    }

    fn into_nested(self, to: ValueType) -> Result<Self, ConvertError> {
        let value = match self {
            Self::String(text) => Self::from_json(&text)?,
            other => other,
        };
        match (&value, to) {
            (Self::List(_), ValueType::List) | (Self::Struct(_), ValueType::Struct) => Ok(value),
            _ => Err(value.mismatch(to)),
        }
    }
}

fn integer_value(integer: i128) -> Option<Value> {
    i64::try_from(integer).map(Value::Int).or_else(|_| u64::try_from(integer).map(Value::UInt)).ok()
}

#[allow(clippy::cast_possible_truncation, reason = "the guard admits only whole numbers of at most 53 bits")]
fn float_to_integer(float: f64) -> Option<i128> {
    #[allow(clippy::cast_precision_loss, reason = "2^53 is a double exactly")]
    let limit = EXACT_DOUBLE as f64;
    (float.fract() == 0.0 && float.abs() <= limit).then_some(float as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Fragment;

    fn text(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn whole_values_are_converted() {
        let cases = [
            (text("TRUE"), ValueType::Bool, Value::Bool(true)),
            (Value::Int(0), ValueType::Bool, Value::Bool(false)),
            (text(" 18446744073709551615 "), ValueType::Int, Value::UInt(u64::MAX)),
            (Value::Float(3.0), ValueType::Int, Value::Int(3)),
            (Value::Int(3), ValueType::Float, Value::Float(3.0)),
            (text("1e3"), ValueType::Float, Value::Float(1000.0)),
            (text("33.50"), ValueType::Decimal, Value::Decimal(Decimal::new(3350, 2).unwrap())),
            (Value::Float(0.1), ValueType::Decimal, Value::Decimal(Decimal::new(1, 1).unwrap())),
            (Value::Int(42), ValueType::String, text("42")),
            (Value::Date(0), ValueType::String, text("1970-01-01")),
            (text("aGk="), ValueType::Binary, Value::Binary(b"hi".to_vec())),
            (text("1970-01-02"), ValueType::Date, Value::Date(1)),
            (Value::Date(1), ValueType::Timestamp, Value::Timestamp(MICROS_PER_DAY)),
            (text("1970-01-01 00:00:01"), ValueType::Timestamp, Value::Timestamp(1_000_000)),
            (text("[1, 2]"), ValueType::List, Value::List(Fragment::parse("[1,2]").unwrap())),
            (text("7"), ValueType::Json, Value::Int(7)),
            (Value::Null, ValueType::Int, Value::Null),
        ];
        for (from, to, expected) in cases {
            assert_eq!(from.clone().convert(to), Ok(expected), "{from:?} to {to}");
        }
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        let cases = [
            (text("yes"), ValueType::Bool),
            (Value::Int(2), ValueType::Bool),
            (Value::Float(1.5), ValueType::Int),
            (text("12x"), ValueType::Int),
            (text("36893488147419103232"), ValueType::Int),
            (Value::Int(i64::MAX), ValueType::Float),
            (text("nan"), ValueType::Float),
            (Value::Bool(true), ValueType::Decimal),
            (text("not base64!"), ValueType::Binary),
            (Value::Timestamp(1), ValueType::Date),
            (text("1970-01-02T10:00:00Z"), ValueType::Date),
            (Value::Int(5), ValueType::Timestamp),
            (text("{\"a\":1}"), ValueType::List),
            (Value::Int(5), ValueType::Struct),
        ];
        for (from, to) in cases {
            assert!(from.clone().convert(to).is_err(), "{from:?} became {to}");
        }
    }

    #[test]
    fn values_that_json_cannot_hold_are_refused_whatever_the_type() {
        for to in ValueType::ALL {
            assert_eq!(Value::Float(f64::NAN).convert(to), Err(ConvertError::NotFinite));
            assert_eq!(Value::Timestamp(i64::MAX).convert(to), Err(ConvertError::OutOfRange("timestamp")));
        }
    }

    #[test]
    fn messages_name_types_and_never_values() {
        let message = text("secret").convert(ValueType::Int).unwrap_err().to_string();
        assert_eq!(message, "a string that cannot become a field of type int");
        let message = text("{secret").convert(ValueType::Json).unwrap_err().to_string();
        assert!(!message.contains("secret"), "{message}");
    }
}
