//! Values as JSON text, both ways, without ever passing a number through a double.
//!
//! Nested values are opaque: a patch replaces them whole and a lookup returns them whole. So they are kept as a
//! [`Fragment`], the JSON text itself with insignificant white space removed; numbers in it stay as written.

use std::fmt;

use serde::de::IgnoredAny;

use crate::decimal::{Decimal, DecimalError};
use crate::limits::MAX_DEPTH;
use crate::value::Value;

/// Significant digits that every double keeps through text and back.
const DOUBLE_DIGITS: usize = 17;

/// Why a text is not an acceptable JSON value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON. The column counts bytes from 1.
    #[error("invalid JSON at column {0}")]
    Syntax(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("lists and objects may be nested {MAX_DEPTH} deep at most")]
    TooDeep,
    /// A number that neither 64 bits, nor 38 decimal digits, nor a double hold as written.
    #[error("a number has more than 38 digits, or is beyond the range of a double")]
    Number,
}

/// The text of a JSON list or object: valid, at most [`MAX_DEPTH`] deep, without insignificant white space.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Fragment(Box<str>);

impl Fragment {
    /// Takes the text of one JSON list or object.
    ///
    /// # Errors
    /// When it is not JSON or too deep. A scalar is refused as a syntax error at column 1.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        let compact = compact(text)?;
        if !compact.starts_with(['[', '{']) {
            return Err(JsonError::Syntax(1));
        }
        serde_json::from_str::<IgnoredAny>(&compact).map_err(|e| JsonError::Syntax(e.column()))?;
        if compact.contains("\\u") {
            // The pass above takes halves of surrogate pairs, which no decoder downstream could turn into text.
            serde_json::from_str::<serde_json::Value>(&compact).map_err(|e| JsonError::Syntax(e.column()))?;
        }
        Ok(Self(compact.into()))
    }

    /// A list of values.
    ///
    /// # Errors
    /// When the result would be too deep.
    pub fn list<'a>(items: impl IntoIterator<Item = &'a Value>) -> Result<Self, JsonError> {
        let mut text = String::from("[");
        for (position, item) in items.into_iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            item.write_json(&mut text);
        }
        text.push(']');
        Self::built(text)
    }

    /// An object with these members in this order.
    ///
    /// # Errors
    /// When the result would be too deep.
    pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Result<Self, JsonError> {
        let mut text = String::from("{");
        for (position, (name, value)) in members.into_iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            write_string(name, &mut text);
            text.push(':');
            value.write_json(&mut text);
        }
        text.push('}');
        Self::built(text)
    }

    /// Takes text that this crate has written, or that a checksum has vouched for, without parsing it again.
    #[must_use]
    pub fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    fn built(text: String) -> Result<Self, JsonError> {
        check_depth(&text)?;
        Ok(Self(text.into()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for a list, false for an object.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.0.starts_with('[')
    }
}

impl fmt::Debug for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value {
    /// The value of one JSON text. Integers and decimals are kept exactly, see [`Value::from_json_number`].
    ///
    /// # Errors
    /// When the text is not JSON, too deep, or holds a top-level number that cannot be kept exactly.
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        match text.as_bytes().first() {
            Some(b'{' | b'[') => {
                let fragment = Fragment::parse(text)?;
                Ok(if fragment.is_list() { Self::List(fragment) } else { Self::Struct(fragment) })
            }
            Some(b'"') => serde_json::from_str(text).map(Self::String).map_err(|e| JsonError::Syntax(e.column())),
            Some(b'-' | b'0'..=b'9') => {
                serde_json::from_str::<IgnoredAny>(text).map_err(|e| JsonError::Syntax(e.column()))?;
                Self::from_json_number(text)
            }
            _ => match text {
                "null" => Ok(Self::Null),
                "true" => Ok(Self::Bool(true)),
                "false" => Ok(Self::Bool(false)),
                _ => Err(JsonError::Syntax(1)),
            },
        }
    }

    /// The value of a number written as JSON: an integer if written as one, a float if a double prints just as it was
    /// written, else a decimal. So `1` is an integer, `0.1` a float, `33.50` and `0.12345678901234567890` decimals.
    ///
    /// # Errors
    /// [`JsonError::Number`] when none of these holds the number exactly.
    pub fn from_json_number(text: &str) -> Result<Self, JsonError> {
        if let Ok(int) = text.parse::<i64>() {
            return Ok(Self::Int(int));
        }
        if let Ok(uint) = text.parse::<u64>() {
            return Ok(Self::UInt(uint));
        }
        let float: f64 = text.parse().map_err(|_| JsonError::Syntax(1))?;
        let exponent = text.contains(['e', 'E']);
        match text.parse::<Decimal>() {
            Ok(exact) => {
                let mut shortest = String::new();
                write_float(float, &mut shortest);
                let same = if exponent {
                    shortest.parse::<Decimal>().is_ok_and(|d| equal(d, exact))
                } else {
                    shortest == text
                };
                Ok(if same { Self::Float(float) } else { Self::Decimal(exact) })
            }
            // A normal double, so neither infinite nor lost on its way to zero.
            Err(DecimalError::TooLarge) if float.is_normal() && digits(text) <= DOUBLE_DIGITS => Ok(Self::Float(float)),
            Err(_) => Err(JsonError::Number),
        }
    }

    /// Appends the value as JSON: timestamps as RFC 3339 in UTC, dates as `YYYY-MM-DD`, binary as base64.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::String(text) => write_string(text, out),
            Self::Binary(_) | Self::Date(_) | Self::Timestamp(_) => {
                out.push('"');
                self.write_text(out);
                out.push('"');
            }
            Self::Null => out.push_str("null"),
            // JSON has no word for these; a record never holds them, see `convert`.
            Self::Float(float) if !float.is_finite() => out.push_str("null"),
            plain => plain.write_text(out),
        }
    }
}

/// Appends a double in the shortest form that reads back as the same double.
pub fn write_float(float: f64, out: &mut String) {
    out.push_str(zmij::Buffer::new().format(float));
}

/// Appends `text` as a JSON string, quoted and escaped.
pub fn write_string(text: &str, out: &mut impl fmt::Write) {
    // The sinks are strings and buffers that grow, which cannot fail.
    let mut put = |text: &str| out.write_str(text).unwrap_or_default();
    put("\"");
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        put(&text[plain..at]);
        plain = at + 1;
        if escape.is_empty() {
            let low = usize::from(byte & 15);
            put(if byte < 0x10 { "\\u000" } else { "\\u001" });
            put(&"0123456789abcdef"[low..=low]);
        } else {
            put(escape);
        }
    }
    put(&text[plain..]);
    put("\"");
}

/// Tells whether `text` holds a character that a JSON string must escape.
#[must_use]
pub fn needs_escape(text: &str) -> bool {
    text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\')
}

fn equal(a: Decimal, b: Decimal) -> bool {
    let scale = a.scale().max(b.scale());
    let at = |d: Decimal| 10i128.checked_pow(u32::from(scale - d.scale())).and_then(|f| d.mantissa().checked_mul(f));
    at(a).is_some() && at(a) == at(b)
}

/// Significant digits of a number's text, leading zeros left out.
fn digits(text: &str) -> usize {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    all.trim_start_matches('0').len()
}

/// Removes white space outside strings and checks the depth.
fn compact(text: &str) -> Result<String, JsonError> {
    let mut out = String::with_capacity(text.len());
    let mut plain = 0;
    scan(text, |at, byte| {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            out.push_str(&text[plain..at]);
            plain = at + 1;
        }
    })?;
    out.push_str(&text[plain..]);
    Ok(out)
}

fn check_depth(text: &str) -> Result<(), JsonError> {
    scan(text, |_, _| {})
}

/// Calls `outside` with every byte that is not in a string, and counts the depth.
fn scan(text: &str, mut outside: impl FnMut(usize, u8)) -> Result<(), JsonError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        outside(at, byte);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(text: &str) -> String {
        let mut out = String::new();
        Value::from_json(text).unwrap().write_json(&mut out);
        out
    }

    #[test]
    fn numbers_come_out_as_they_went_in() {
        for text in [
            "0",
            "-1",
            "9007199254740993",
            "-9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "0.1",
            "33.50",
            "0.12345678901234567890",
            "1.0",
        ] {
            assert_eq!(round(text), text);
        }
        assert_eq!(Value::from_json("33.50").unwrap(), Value::Decimal(Decimal::new(3350, 2).unwrap()));
        assert_eq!(Value::from_json("0.1").unwrap(), Value::Float(0.1));
        assert_eq!(Value::from_json("1e3").unwrap(), Value::Float(1000.0));
        assert_eq!(Value::from_json("1e300").unwrap(), Value::Float(1e300));
    }

    #[test]
    fn numbers_that_would_lose_digits_are_refused() {
        assert_eq!(Value::from_json(&"9".repeat(40)), Err(JsonError::Number));
        assert_eq!(Value::from_json("1e400"), Err(JsonError::Number));
        assert_eq!(Value::from_json("1e-400"), Err(JsonError::Number));
        assert_eq!(Value::from_json("1.2345678901234567890e300"), Err(JsonError::Number));
    }

    #[test]
    fn nested_values_lose_only_white_space() {
        assert_eq!(
            round(" { \"a b\" : [ 1.50 , { } ] ,\n \"c\\\" d\" : null } "),
            "{\"a b\":[1.50,{}],\"c\\\" d\":null}"
        );
    }

    #[test]
    fn malformed_text_is_refused() {
        for bad in ["", "{", "[1,]", "{\"a\"}", "tru", "01", "1 2", "\"a", "'a'", "[1] x", "\u{feff}1", "+1", "NaN"] {
            assert!(matches!(Value::from_json(bad), Err(JsonError::Syntax(_))), "{bad:?} was accepted");
        }
        assert!(Value::from_json("\"\\ud800\"").is_err());
        assert!(Value::from_json("[\"\\ud800\"]").is_err());
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Value::from_json(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Value::from_json(&nested(MAX_DEPTH + 1)), Err(JsonError::TooDeep));
        assert_eq!(Value::from_json(&"[".repeat(100_000)), Err(JsonError::TooDeep));
    }

    #[test]
    fn lists_and_objects_are_built_from_values() {
        let list = Fragment::list(&[Value::Int(1), Value::String("a\"b".into()), Value::Null]).unwrap();
        assert_eq!(list.as_str(), "[1,\"a\\\"b\",null]");
        let object = Fragment::object([("x", &Value::Bool(true)), ("y", &Value::List(list))]).unwrap();
        assert_eq!(object.as_str(), "{\"x\":true,\"y\":[1,\"a\\\"b\",null]}");
    }

    proptest! {
        #[test]
        fn strings_are_escaped_as_json_asks(text in any::<String>()) {
            let mut out = String::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text.clone());
            prop_assert_eq!(needs_escape(&text), out.len() != text.len() + 2);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Value::from_json(&text);
        }

        #[test]
        fn floats_survive(float in proptest::num::f64::NORMAL) {
            let mut out = String::new();
            write_float(float, &mut out);
            prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), float.to_bits());
        }
    }
}
