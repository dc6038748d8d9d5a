//! Columns of Arrow built from the values of SQLite, whose types are dynamic.
//!
//! The values of the first batch decide the type of a column:
//!
//! | values, NULL aside | column |
//! | --- | --- |
//! | INTEGER | `Int64` |
//! | REAL, or INTEGER and REAL | `Float64` |
//! | TEXT, or TEXT and numbers | `Utf8`, numbers as text |
//! | BLOB | `Binary`; beside anything else it is an error |
//! | none | as declared, or as `CAST` says; else `Null`, also for a BLOB if there is no row |
//!
//! A later value that the column cannot hold whole is an error, never a conversion.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, Float64Builder, Int64Builder, NullBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use larder_types::json::write_float;
use rusqlite::types::{Type, ValueRef};

/// Integers up to this size are doubles exactly.
const EXACT_DOUBLE: u64 = 1 << 53;

/// The type of a result column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Int,
    Float,
    Text,
    Blob,
}

impl Kind {
    /// The type that a declaration stands for, by the affinity rules of SQLite; [`Kind::Null`] where it leaves open
    /// what values there are.
    pub(super) fn declared(declaration: &str) -> Self {
        let word = declaration.to_ascii_uppercase();
        let has = |part: &str| word.contains(part);
        if has("INT") {
            Self::Int
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Float
        } else {
            Self::Null
        }
    }

    /// What is known where no value has been seen. SQLite says BLOB of every column without a declared type, whatever
    /// is in it, so that is as good as nothing.
    pub(super) fn without_values(self) -> Self {
        if self == Self::Blob { Self::Null } else { self }
    }

    fn of(value: Type) -> Self {
        match value {
            Type::Null => Self::Null,
            Type::Integer => Self::Int,
            Type::Real => Self::Float,
            Type::Text => Self::Text,
            Type::Blob => Self::Blob,
        }
    }

    /// The type that holds both this and `other`, if there is one.
    pub(super) fn widen(self, other: Type) -> Option<Self> {
        let other = Self::of(other);
        match (self, other) {
            (known, Self::Null) => Some(known),
            (Self::Null, other) => Some(other),
            (known, other) if known == other => Some(known),
            (Self::Blob, _) | (_, Self::Blob) => None,
            (Self::Text, _) | (_, Self::Text) => Some(Self::Text),
            _ => Some(Self::Float),
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Null => DataType::Null,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Blob => DataType::Binary,
        }
    }
}

/// A column under construction.
pub(super) enum DynamicColumn {
    Null(NullBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Blob(BinaryBuilder),
}

impl DynamicColumn {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Null => Self::Null(NullBuilder::new()),
            Kind::Int => Self::Int(Int64Builder::new()),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Blob => Self::Blob(BinaryBuilder::new()),
        }
    }

    /// Appends a value, or says why the column cannot hold it.
    pub(super) fn append(&mut self, value: ValueRef<'_>) -> Result<(), String> {
        match (self, value) {
            (Self::Null(column), ValueRef::Null) => column.append_null(),
            (Self::Int(column), ValueRef::Null) => column.append_null(),
            (Self::Float(column), ValueRef::Null) => column.append_null(),
            (Self::Text(column), ValueRef::Null) => column.append_null(),
            (Self::Blob(column), ValueRef::Null) => column.append_null(),
            (Self::Int(column), ValueRef::Integer(number)) => column.append_value(number),
            (Self::Float(column), ValueRef::Real(number)) => column.append_value(number),
            #[allow(clippy::cast_precision_loss, reason = "the guard admits only integers that a double holds exactly")]
            (Self::Float(column), ValueRef::Integer(number)) if number.unsigned_abs() <= EXACT_DOUBLE => {
                column.append_value(number as f64);
            }
            (Self::Text(column), ValueRef::Text(text)) => match std::str::from_utf8(text) {
                Ok(text) => column.append_value(text),
                Err(_) => return Err("a TEXT that is not UTF-8; select `CAST(... AS BLOB)`".to_owned()),
            },
            (Self::Text(column), ValueRef::Integer(number)) => column.append_value(number.to_string()),
            (Self::Text(column), ValueRef::Real(number)) => {
                let mut text = String::new();
                write_float(number, &mut text);
                column.append_value(text);
            }
            (Self::Blob(column), ValueRef::Blob(bytes)) => column.append_value(bytes),
            (column, value) => return Err(column.misfit(value.data_type())),
        }
        Ok(())
    }

    fn misfit(&self, found: Type) -> String {
        let found = sql_name(Kind::of(found));
        let column = match self {
            Self::Null(_) => {
                return format!(
                    "{found}, but every earlier value is NULL, so the column's type is unknown; select `CAST(... AS {found})`"
                );
            }
            Self::Int(_) => Kind::Int,
            Self::Float(_) => Kind::Float,
            Self::Text(_) => Kind::Text,
            Self::Blob(_) => Kind::Blob,
        };
        let column = sql_name(column);
        format!(
            "{found} in a column that was {column} in the first rows; make the type sure with `CAST(... AS REAL)` or `CAST(... AS TEXT)`"
        )
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Null(column) => Arc::new(column.finish()) as Arc<dyn Array>,
            Self::Int(column) => Arc::new(column.finish()),
            Self::Float(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
            Self::Blob(column) => Arc::new(column.finish()),
        }
    }
}

fn sql_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "NULL",
        Kind::Int => "INTEGER",
        Kind::Float => "REAL",
        Kind::Text => "TEXT",
        Kind::Blob => "BLOB",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_follow_the_affinity_rules() {
        for (declaration, expected) in [
            ("INTEGER", Kind::Int),
            ("bigint", Kind::Int),
            ("VARCHAR(20)", Kind::Text),
            ("TEXT", Kind::Text),
            ("BLOB", Kind::Blob),
            ("DOUBLE PRECISION", Kind::Float),
            ("FLOAT", Kind::Float),
            ("DECIMAL(10,2)", Kind::Null),
            ("NUM", Kind::Null),
            ("", Kind::Null),
        ] {
            assert_eq!(Kind::declared(declaration), expected, "{declaration}");
        }
    }

    #[test]
    fn numbers_widen_to_floats_and_then_to_text() {
        let widened = |values: &[Type]| values.iter().try_fold(Kind::Null, |kind, value| kind.widen(*value));
        for (values, expected) in [
            (&[Type::Null][..], Some(Kind::Null)),
            (&[Type::Null, Type::Integer, Type::Null], Some(Kind::Int)),
            (&[Type::Integer, Type::Real], Some(Kind::Float)),
            (&[Type::Real, Type::Text, Type::Integer], Some(Kind::Text)),
            (&[Type::Blob, Type::Null], Some(Kind::Blob)),
            (&[Type::Blob, Type::Text], None),
        ] {
            assert_eq!(widened(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_value_that_a_column_cannot_hold_whole_is_refused() {
        let refuses = |kind: Kind, value: ValueRef<'_>| DynamicColumn::new(kind).append(value).is_err();
        assert!(refuses(Kind::Int, ValueRef::Real(1.0)));
        assert!(refuses(Kind::Int, ValueRef::Text(b"1")));
        assert!(!refuses(Kind::Float, ValueRef::Integer(1 << 53)));
        assert!(refuses(Kind::Float, ValueRef::Integer((1 << 53) + 1)));
        assert!(refuses(Kind::Text, ValueRef::Text(b"\xff")));
        assert!(refuses(Kind::Text, ValueRef::Blob(b"a")));
        assert!(refuses(Kind::Null, ValueRef::Integer(1)));
    }
}
