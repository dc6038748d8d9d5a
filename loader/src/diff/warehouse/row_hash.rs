//! Row hashes in SQL: one expression for each dialect, equal only for rows whose columns are equal.
//!
//! A hash is MD5 in hexadecimal, over a salt that only this sync knows and the columns in order. Columns are written so
//! that no two rows have the same text: each with its length before it, null as a mark that no text has; or as JSON
//! where the database writes it canonically. Everything that a session could print in another way, or print without its
//! last digits, has its form given. A database that prints something differently one day makes rows look changed, which
//! costs a run that sends them; it can never make a changed row look unchanged.

use arrow_schema::{DataType, Field};

use crate::source::dialect::Dialect;

const EXTENSION: &str = "ARROW:extension:name";

/// What matters of a column's type for its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its text is exact and depends on nothing: texts, integers, decimals, UUIDs.
    Plain,
    Bool,
    Date,
    Float,
    /// A time of day.
    Time,
    /// A date and a time of day, of no zone.
    Timestamp,
    /// A moment.
    Instant,
    Binary,
    /// Lists, objects and JSON.
    Nested,
}

/// The SQL of the hash of a row. `columns` are in scope by their names.
pub(super) fn expression(dialect: Dialect, salt: &str, columns: &[Field]) -> String {
    let quoted = || columns.iter().map(|column| dialect.quoted(column.name())).collect::<Vec<_>>().join(", ");
    match dialect {
        // Times in UTC to the microsecond, doubles to their last digit, bytes in base64.
        Dialect::BigQuery => format!("TO_HEX(MD5(CONCAT('{salt}', TO_JSON_STRING(STRUCT({})))))", quoted()),
        // By default times lose their microseconds and nulls are left out.
        Dialect::Databricks => format!(
            "md5(concat('{salt}', to_json(struct({}), map('timestampFormat', \
             'yyyy-MM-dd\\'T\\'HH:mm:ss.SSSSSSXXX', 'timestampNTZFormat', 'yyyy-MM-dd\\'T\\'HH:mm:ss.SSSSSS', \
             'timeZone', 'UTC', 'ignoreNullFields', 'false'))))",
            quoted()
        ),
        _ => {
            let cells: Vec<String> = columns.iter().map(|column| cell(dialect, column)).collect();
            format!("md5('{salt}' || {})", cells.join(" || "))
        }
    }
}

/// A column with where it ends.
fn cell(dialect: Dialect, column: &Field) -> String {
    let text = text(dialect, column);
    match dialect {
        // A text has at most 65 535 bytes here, all columns together; their hashes fit.
        Dialect::Redshift => format!("COALESCE(md5({text}), '-')"),
        Dialect::Postgres => format!("COALESCE(length({text})::text || ':' || {text}, '-')"),
        _ => format!("COALESCE(CAST(length({text}) AS VARCHAR) || ':' || {text}, '-')"),
    }
}

/// The text of a column; null if it is null.
fn text(dialect: Dialect, column: &Field) -> String {
    let name = dialect.quoted(column.name());
    match (dialect, kind(column)) {
        (Dialect::Postgres, Kind::Instant) => format!("({name} AT TIME ZONE 'UTC')::text"),
        (Dialect::Postgres, Kind::Binary) => format!("encode({name}, 'hex')"),
        (Dialect::Postgres, _) => format!("{name}::text"),

        (Dialect::Redshift, Kind::Bool) => format!("CASE WHEN {name} THEN 'true' WHEN NOT {name} THEN 'false' END"),
        (Dialect::Redshift, Kind::Instant) => format!("({name} AT TIME ZONE 'UTC')::varchar(65535)"),
        (Dialect::Redshift, Kind::Binary) => format!("to_hex({name})"),
        (Dialect::Redshift, Kind::Nested) => format!("json_serialize({name})"),
        // Only 15 digits are printed; what they leave out is printed after them.
        (Dialect::Redshift, Kind::Float) => {
            format!("({name}::varchar(65535) || '/' || ({name} - {name}::varchar(65535)::float8)::varchar(65535))")
        }
        (Dialect::Redshift, _) => format!("{name}::varchar(65535)"),

        (Dialect::Snowflake, Kind::Date) => format!("TO_VARCHAR({name}, 'YYYY-MM-DD')"),
        (Dialect::Snowflake, Kind::Time) => format!("TO_VARCHAR({name}, 'HH24:MI:SS.FF9')"),
        (Dialect::Snowflake, Kind::Timestamp) => format!("TO_VARCHAR({name}, 'YYYY-MM-DD HH24:MI:SS.FF9')"),
        (Dialect::Snowflake, Kind::Instant) => {
            format!("TO_VARCHAR(CONVERT_TIMEZONE('UTC', {name}), 'YYYY-MM-DD HH24:MI:SS.FF9')")
        }
        // A double is not printed to its last digit; its hash, of 64 bits, is of all of it.
        (Dialect::Snowflake, Kind::Float) => format!("CASE WHEN {name} IS NOT NULL THEN TO_VARCHAR(HASH({name})) END"),
        (Dialect::Snowflake, Kind::Binary) => format!("HEX_ENCODE({name})"),
        (Dialect::Snowflake, Kind::Nested) => format!("TO_JSON({name})"),
        (Dialect::Snowflake, _) => format!("TO_VARCHAR({name})"),

        (Dialect::DuckDb, Kind::Instant) => format!(
            "CASE WHEN isfinite({name}) THEN CAST(epoch_us({name}) AS VARCHAR) ELSE CAST({name} AS VARCHAR) END"
        ),
        (Dialect::DuckDb, Kind::Nested) => format!("CAST(to_json({name}) AS VARCHAR)"),
        _ => format!("CAST({name} AS VARCHAR)"),
    }
}

fn kind(column: &Field) -> Kind {
    let metadata = |name: &str| column.metadata().get(name).map(String::as_str);
    let is_json = metadata(EXTENSION) == Some("arrow.json")
        || metadata("logicalType").is_some_and(|kind| ["VARIANT", "OBJECT", "ARRAY"].contains(&kind));
    let is_uuid = metadata(EXTENSION) == Some("arrow.uuid");
    kind_of(column.data_type(), is_json, is_uuid)
}

fn kind_of(kind: &DataType, is_json: bool, is_uuid: bool) -> Kind {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if is_json => Kind::Nested,
        DataType::Boolean => Kind::Bool,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => Kind::Float,
        DataType::Date32 | DataType::Date64 => Kind::Date,
        DataType::Time32(_) | DataType::Time64(_) => Kind::Time,
        DataType::Timestamp(_, None) => Kind::Timestamp,
        DataType::Timestamp(_, Some(_)) => Kind::Instant,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) if !is_uuid => {
            Kind::Binary
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..) => Kind::Nested,
        DataType::Dictionary(_, values) => kind_of(values, is_json, is_uuid),
        DataType::RunEndEncoded(_, values) => kind_of(values.data_type(), is_json, is_uuid),
        _ => Kind::Plain,
    }
}
