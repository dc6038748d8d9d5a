//! CSV files: comma-separated, quoted with `"`, with a header line. An empty cell is null; a quote that is not closed,
//! or is not the end of its cell, is an error.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_csv::reader::Format;
use arrow_csv::{Reader, ReaderBuilder};
use arrow_schema::{ArrowError, DataType, Field, Schema};

use super::columns::{TextColumn, field, misfit};
use super::infer::{Guess, SAMPLE_ROWS, type_of_text};
use super::quotes::QuoteCheck;
use super::{BATCH_ROWS, Batches, SourceError};
use crate::project::ColumnType;

fn open(file: &Path) -> Result<QuoteCheck<File>, SourceError> {
    File::open(file).map(QuoteCheck::new).map_err(|error| SourceError::file(file, error))
}

/// What the reader says, without its own words around what the file or the check of the quotes said.
fn fault(file: &Path, error: ArrowError) -> SourceError {
    match error {
        ArrowError::IoError(_, error) => SourceError::file(file, error),
        ArrowError::CsvError(reason) => SourceError::file(file, reason),
        error => SourceError::file(file, error),
    }
}

/// The names in the header line.
pub(super) fn header(file: &Path) -> Result<Vec<String>, SourceError> {
    let opened = open(file)?;
    let format = Format::default().with_header(true);
    let (schema, _) = format.infer_schema(opened, Some(0)).map_err(|error| fault(file, error))?;
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    if names.is_empty() || names.iter().any(String::is_empty) {
        return Err(SourceError::file(file, "the first line must name every column"));
    }
    Ok(names)
}

/// Looks at the first rows of a file, for the types of the columns of `header`.
pub(super) fn sample(file: &Path, header: &[String], guesses: &mut [Guess]) -> Result<(), SourceError> {
    let mut left = SAMPLE_ROWS;
    for batch in texts(file, header, (0..header.len()).collect())? {
        let batch = batch.map_err(|error| fault(file, error))?;
        for (column, guess) in batch.columns().iter().zip(guesses.iter_mut()) {
            for text in column.as_string::<i32>().iter().take(left).flatten() {
                guess.see(type_of_text(text), ColumnType::String);
            }
        }
        left = left.saturating_sub(batch.num_rows());
        if left == 0 {
            break;
        }
    }
    Ok(())
}

/// The rows of a file in those of these columns that its header names, in the order of the header.
pub(super) fn batches(file: &Path, wanted: &[(String, ColumnType)]) -> Result<Batches, SourceError> {
    let header = header(file)?;
    let mut positions = Vec::new();
    let mut columns = Vec::new();
    for (position, name) in header.iter().enumerate() {
        if let Some(column) = wanted.iter().find(|(wanted, _)| wanted == name) {
            positions.push(position);
            columns.push(column.clone());
        }
    }
    let texts = texts(file, &header, positions)?;
    let schema = Schema::new(columns.iter().map(|(name, kind)| field(name, *kind)).collect::<Vec<_>>());
    let mut typing = Typing { file: file.to_path_buf(), schema: Arc::new(schema), columns, rows: 0 };
    let file = file.to_path_buf();
    Ok(Box::new(texts.map(move |batch| typing.convert(&batch.map_err(|error| fault(&file, error))?))))
}

/// The rows as they stand in the file, every column a text, in the columns at these positions of the header.
fn texts(file: &Path, header: &[String], positions: Vec<usize>) -> Result<Reader<QuoteCheck<File>>, SourceError> {
    let opened = open(file)?;
    let fields: Vec<Field> = header.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .with_projection(positions)
        .build(opened)
        .map_err(|error| fault(file, error))
}

/// Turns batches of texts into batches of types.
struct Typing {
    file: PathBuf,
    schema: Arc<Schema>,
    columns: Vec<(String, ColumnType)>,
    /// Rows of earlier batches.
    rows: u64,
}

impl Typing {
    fn convert(&mut self, batch: &RecordBatch) -> Result<RecordBatch, SourceError> {
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .zip(batch.columns())
            .map(|((name, kind), texts)| self.convert_column(name, *kind, texts))
            .collect::<Result<_, _>>()?;
        self.rows += batch.num_rows() as u64;
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| SourceError::file(&self.file, error))
    }

    fn convert_column(&self, name: &str, kind: ColumnType, texts: &ArrayRef) -> Result<ArrayRef, SourceError> {
        if texts.data_type() == field(name, kind).data_type() {
            return Ok(Arc::clone(texts));
        }
        let mut column = TextColumn::new(kind);
        for (row, text) in (self.rows + 1..).zip(texts.as_string::<i32>().iter()) {
            match text {
                None => column.append_null(),
                Some(text) if column.append(text) => {}
                Some(_) => {
                    return Err(SourceError::Cell {
                        place: self.file.display().to_string(),
                        row,
                        column: name.to_owned(),
                        reason: misfit(name, kind),
                    });
                }
            }
        }
        Ok(column.finish())
    }
}
