//! Parquet files.
//!
//! Types are taken from the Parquet schema alone; an Arrow schema that some writers embed is ignored, so that equal
//! files give equal columns whoever wrote them. Of the logical types, UUID and JSON are marked on the column.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use arrow_schema::{Field, Fields, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::{BATCH_ROWS, Batches, EXTENSION_NAME, SourceError};

fn open(file: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, SourceError> {
    let opened = File::open(file).map_err(|error| SourceError::file(file, error))?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetRecordBatchReaderBuilder::try_new_with_options(opened, options)
        .map_err(|error| SourceError::file(file, format!("not a readable Parquet file: {error}")))
}

/// The columns of a file.
pub(super) fn schema(file: &Path) -> Result<Schema, SourceError> {
    let reader = open(file)?;
    let fields: Fields = reader.schema().fields().iter().map(|field| plain(field)).collect();
    Ok(Schema::new(fields))
}

/// A column without what may differ from file to file: whether it admits nulls, and remarks of the writer.
fn plain(field: &Field) -> Field {
    let plain = Field::new(field.name(), field.data_type().clone(), true);
    match field.metadata().get(EXTENSION_NAME) {
        Some(name) => plain.with_metadata(HashMap::from([(EXTENSION_NAME.to_owned(), name.clone())])),
        None => plain,
    }
}

/// The rows of a file, with the named columns in the file's order.
pub(super) fn batches(file: &Path, columns: &[String]) -> Result<Batches, SourceError> {
    let reader = open(file)?;
    let schema = reader.schema();
    let wanted = (0..schema.fields().len()).filter(|position| columns.contains(schema.field(*position).name()));
    let mask = ProjectionMask::roots(reader.parquet_schema(), wanted);
    let rows = reader
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| SourceError::file(file, error))?;
    let file = file.to_path_buf();
    Ok(Box::new(rows.map(move |batch| batch.map_err(|error| SourceError::file(&file, error)))))
}
