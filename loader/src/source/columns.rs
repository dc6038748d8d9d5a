//! Columns of Arrow built from texts, for CSV and NDJSON.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    BooleanBuilder, Date32Builder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_schema::{DataType, Field, TimeUnit};
use larder_types::time::parse_timestamp;

use super::infer::{parse_bool, parse_float, parse_int, strict_date};
use super::{EXTENSION_NAME, JSON_EXTENSION};
use crate::project::ColumnType;

/// The Arrow column of a type.
pub(super) fn field(name: &str, kind: ColumnType) -> Field {
    let data_type = match kind {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Int => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::String | ColumnType::Json => DataType::Utf8,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    };
    let field = Field::new(name, data_type, true);
    if kind == ColumnType::Json {
        field.with_metadata(HashMap::from([(EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned())]))
    } else {
        field
    }
}

/// A column under construction.
pub(super) enum TextColumn {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    String(StringBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl TextColumn {
    pub(super) fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Int => Self::Int(Int64Builder::new()),
            ColumnType::Float => Self::Float(Float64Builder::new()),
            ColumnType::String | ColumnType::Json => Self::String(StringBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
        }
    }

    /// Appends a text as the column's type. False if it is not of that type, and then nothing was appended.
    #[must_use]
    pub(super) fn append(&mut self, text: &str) -> bool {
        match self {
            Self::Bool(column) => parse_bool(text).map(|value| column.append_value(value)).is_some(),
            Self::Int(column) => parse_int(text).map(|value| column.append_value(value)).is_some(),
            Self::Float(column) => parse_float(text).map(|value| column.append_value(value)).is_some(),
            Self::String(column) => {
                column.append_value(text);
                true
            }
            Self::Date(column) => strict_date(text).map(|value| column.append_value(value)).is_some(),
            Self::Timestamp(column) => parse_timestamp(text).map(|value| column.append_value(value)).is_some(),
        }
    }

    pub(super) fn append_null(&mut self) {
        match self {
            Self::Bool(column) => column.append_null(),
            Self::Int(column) => column.append_null(),
            Self::Float(column) => column.append_null(),
            Self::String(column) => column.append_null(),
            Self::Date(column) => column.append_null(),
            Self::Timestamp(column) => column.append_null(),
        }
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(column) => Arc::new(column.finish()),
            Self::Int(column) => Arc::new(column.finish()),
            Self::Float(column) => Arc::new(column.finish()),
            Self::String(column) => Arc::new(column.finish()),
            Self::Date(column) => Arc::new(column.finish()),
            Self::Timestamp(column) => Arc::new(column.finish()),
        }
    }
}

/// What to say of a text that does not fit its column.
pub(super) fn misfit(column: &str, kind: ColumnType) -> String {
    let kind = kind.as_str();
    format!("not of type {kind}, as the first rows or `types` say; give the table `types: {{{column}: string}}`")
}
