//! Values: the content of a field.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::decimal::Decimal;
use crate::ids::Micros;
use crate::json::{Fragment, write_float};
use crate::time::{write_date, write_timestamp};

/// The content of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Known to have no content, which is not the same as a field that was never written.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer above `i64::MAX`. Smaller ones are [`Value::Int`], so that a number has one form.
    UInt(u64),
    /// A double, finite.
    Float(f64),
    /// An exact decimal.
    Decimal(Decimal),
    /// Text.
    String(String),
    /// Bytes; base64 in JSON.
    Binary(Vec<u8>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(Micros),
    /// A list, as its JSON text.
    List(Fragment),
    /// An object, as its JSON text.
    Struct(Fragment),
}

/// What a field was declared to hold. Null is allowed in every field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// Whatever comes.
    #[default]
    Any,
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Int`] or [`Value::UInt`].
    Int,
    /// [`Value::Float`].
    Float,
    /// [`Value::Decimal`].
    Decimal,
    /// [`Value::String`].
    String,
    /// [`Value::Binary`].
    Binary,
    /// [`Value::Date`].
    Date,
    /// [`Value::Timestamp`].
    Timestamp,
    /// [`Value::List`].
    List,
    /// [`Value::Struct`].
    Struct,
    /// Any value given as JSON text.
    Json,
}

impl ValueType {
    /// All types in the order in which the documentation lists them.
    pub const ALL: [Self; 12] = [
        Self::Any,
        Self::Bool,
        Self::Int,
        Self::Float,
        Self::Decimal,
        Self::String,
        Self::Binary,
        Self::Date,
        Self::Timestamp,
        Self::List,
        Self::Struct,
        Self::Json,
    ];

    /// The name used in requests and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Decimal => "decimal",
            Self::String => "string",
            Self::Binary => "binary",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::List => "list",
            Self::Struct => "struct",
            Self::Json => "json",
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Value {
    /// An unsigned integer in its one form.
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        i64::try_from(number).map_or(Self::UInt(number), Self::Int)
    }

    /// The word for this kind of value in messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::UInt(_) => "int",
            Self::Float(_) => "float",
            Self::Decimal(_) => "decimal",
            Self::String(_) => "string",
            Self::Binary(_) => "binary",
            Self::Date(_) => "date",
            Self::Timestamp(_) => "timestamp",
            Self::List(_) => "list",
            Self::Struct(_) => "struct",
        }
    }

    /// The value's text: what stands between the quotes if it is put into a string. Null is empty.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out);
        out
    }

    /// Appends the value's text.
    pub fn write_text(&self, out: &mut String) {
        // Writing to a string cannot fail, so the results of `write!` say nothing.
        match self {
            Self::Null => {}
            Self::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Self::Int(number) => drop(write!(out, "{number}")),
            Self::UInt(number) => drop(write!(out, "{number}")),
            Self::Float(float) => write_float(*float, out),
            Self::Decimal(decimal) => drop(write!(out, "{decimal}")),
            Self::String(text) => out.push_str(text),
            Self::Binary(bytes) => BASE64.encode_string(bytes, out),
            Self::Date(days) => write_date(*days, out),
            Self::Timestamp(micros) => write_timestamp(*micros, out),
            Self::List(fragment) | Self::Struct(fragment) => out.push_str(fragment.as_str()),
        }
    }
}
