//! Exports: what the history knows, for people and for other programs.
//!
//! JSON and NDJSON are the entries as they are. Parquet has one flat row for each entry, with a schema that does not depend
//! on what is in them, so that files of many runs can be read as one table.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use serde::Serialize;

/// Rows that are encoded together.
const TOGETHER: usize = 8192;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Table,
    /// One JSON list.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// A Parquet file.
    Parquet,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It cannot be written.
    #[error("the export cannot be written: {0}")]
    Io(#[from] io::Error),
    /// An entry has no JSON.
    #[error("an entry cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An entry does not fit its schema.
    #[error("an entry cannot be written as Parquet: {0}")]
    Arrow(#[from] ArrowError),
    /// The file cannot be made.
    #[error("the Parquet file cannot be written: {0}")]
    Parquet(#[from] ParquetError),
}

/// An entry that has a flat form.
pub trait Entry: Serialize {
    /// Its flat form: an object of numbers and texts.
    type Flat: Serialize;

    /// The columns of the flat form.
    fn columns() -> Vec<Field>;

    /// Appends its flat form, which may be several rows.
    fn flatten(&self, into: &mut Vec<Self::Flat>);
}

/// A column of texts.
pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

/// A column of numbers.
pub(super) fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// A column of times.
pub(super) fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true)
}

/// Writes entries in one of the formats for programs; for people, `line` is asked.
///
/// # Errors
/// When `out` cannot be written.
pub fn write<E: Entry>(
    entries: &[E],
    format: Format,
    out: &mut (impl Write + Send),
    line: impl Fn(&E) -> String,
) -> Result<(), ExportError> {
    match format {
        Format::Table => entries.iter().try_for_each(|entry| writeln!(out, "{}", line(entry)))?,
        Format::Json => {
            serde_json::to_writer(&mut *out, entries)?;
            writeln!(out)?;
        }
        Format::Ndjson => {
            for entry in entries {
                serde_json::to_writer(&mut *out, entry)?;
                writeln!(out)?;
            }
        }
        Format::Parquet => write_parquet(entries, out)?,
    }
    Ok(out.flush()?)
}

fn write_parquet<E: Entry>(entries: &[E], out: &mut (impl Write + Send)) -> Result<(), ExportError> {
    let schema = Arc::new(Schema::new(E::columns()));
    let mut writer = ArrowWriter::try_new(out, Arc::clone(&schema), None)?;
    let mut decoder = ReaderBuilder::new(schema).with_batch_size(TOGETHER).build_decoder()?;
    let mut rows = Vec::new();
    entries.iter().for_each(|entry| entry.flatten(&mut rows));
    for rows in rows.chunks(TOGETHER) {
        decoder.serialize(rows)?;
        if let Some(batch) = decoder.flush()? {
            writer.write(&batch)?;
        }
    }
    writer.close()?;
    Ok(())
}
