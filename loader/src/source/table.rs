//! A table made of files: one schema over all of them, and their rows one file after the other.
//!
//! How the files of a glob agree:
//! - Parquet and CSV: every file has the same columns, in any order; the first file's order is the table's.
//! - Parquet: a column has the same type in every file.
//! - CSV: a column's type is guessed from the first rows of all files together.
//! - NDJSON: the columns are those found in the first rows of any file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};

use super::columns::field;
use super::infer::Guess;
use super::{Batches, SourceError, csv_file, glob, ndjson_file, parquet_file};
use crate::project::suggest::hint;
use crate::project::{ColumnType, FileFormat, FileTable};

/// A table whose files were found and whose columns are known.
pub(super) struct Table {
    files: Vec<PathBuf>,
    format: FileFormat,
    schema: SchemaRef,
    /// The types of the columns of CSV and NDJSON files; empty for Parquet.
    kinds: Vec<(String, ColumnType)>,
}

/// The table of this name.
pub(super) fn find<'a>(tables: &'a BTreeMap<String, FileTable>, name: &str) -> Result<&'a FileTable, SourceError> {
    tables.get(name).ok_or_else(|| {
        let hint = hint(name, tables.keys().map(String::as_str));
        SourceError::Message(format!("the source has no table `{name}`; {hint}"))
    })
}

impl Table {
    /// Finds the files of a table and their columns.
    pub(super) fn open(name: &str, spec: &FileTable) -> Result<Self, SourceError> {
        let files =
            glob::expand(&spec.path).map_err(|error| SourceError::Message(format!("table `{name}`: {error}")))?;
        let kinds = match spec.format {
            FileFormat::Parquet => Vec::new(),
            FileFormat::Csv => csv_columns(&files, &spec.types)?,
            FileFormat::Ndjson => ndjson_columns(&files, &spec.types)?,
        };
        let schema = match spec.format {
            FileFormat::Parquet => parquet_schema(&files)?,
            FileFormat::Csv | FileFormat::Ndjson => {
                Schema::new(kinds.iter().map(|(name, kind)| field(name, *kind)).collect::<Vec<_>>())
            }
        };
        let mut seen = BTreeSet::new();
        if let Some(twice) = schema.fields().iter().find(|field| !seen.insert(field.name().as_str())) {
            return Err(SourceError::Message(format!("table `{name}`: two columns are named `{}`", twice.name())));
        }
        Ok(Self { files, format: spec.format, schema: Arc::new(schema), kinds })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows, in all columns or in those named; always in the order of the table's schema.
    pub(super) fn batches(self, wanted: Option<&[String]>) -> Batches {
        let is_wanted = |name: &String| wanted.is_none_or(|wanted| wanted.contains(name));
        let fields: Vec<Arc<Field>> =
            self.schema.fields().iter().filter(|field| is_wanted(field.name())).map(Arc::clone).collect();
        let kinds = self.kinds.into_iter().filter(|(name, _)| is_wanted(name)).collect();
        Box::new(Rows {
            schema: Arc::new(Schema::new(fields)),
            files: self.files.into_iter(),
            format: self.format,
            kinds,
            current: None,
            failed: false,
        })
    }
}

fn parquet_schema(files: &[PathBuf]) -> Result<Schema, SourceError> {
    let mut first: Option<(&Path, Schema)> = None;
    for file in files {
        let schema = parquet_file::schema(file)?;
        let Some((first_file, known)) = &first else {
            first = Some((file, schema));
            continue;
        };
        let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        same_columns((first_file, &names(known)), (file, &names(&schema)))?;
        for field in known.fields() {
            let other = schema.field_with_name(field.name()).map_err(|error| SourceError::file(file, error))?;
            if other.data_type() != field.data_type() {
                let reason = format!(
                    "column `{}` is of type {}, but {} in {}",
                    field.name(),
                    other.data_type(),
                    field.data_type(),
                    first_file.display()
                );
                return Err(SourceError::file(file, reason));
            }
        }
    }
    Ok(first.map_or_else(Schema::empty, |(_, schema)| schema))
}

/// Checks that two files name the same columns.
fn same_columns(first: (&Path, &[String]), other: (&Path, &[String])) -> Result<(), SourceError> {
    let fault = |column: &String, lacking: &Path, having: &Path| {
        let reason =
            format!("no column `{column}`, which {} has; files of one table have the same columns", having.display());
        Err(SourceError::file(lacking, reason))
    };
    if let Some(column) = first.1.iter().find(|column| !other.1.contains(column)) {
        return fault(column, other.0, first.0);
    }
    match other.1.iter().find(|column| !first.1.contains(column)) {
        Some(column) => fault(column, first.0, other.0),
        None => Ok(()),
    }
}

fn csv_columns(
    files: &[PathBuf],
    declared: &BTreeMap<String, ColumnType>,
) -> Result<Vec<(String, ColumnType)>, SourceError> {
    let mut columns: Vec<(String, Guess)> = Vec::new();
    for (position, file) in files.iter().enumerate() {
        let header = csv_file::header(file)?;
        if position == 0 {
            columns = header.iter().map(|name| (name.clone(), Guess::default())).collect();
        }
        let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        same_columns((&files[0], &names), (file, &header))?;
        let mut guesses = vec![Guess::default(); header.len()];
        for (guess, name) in guesses.iter_mut().zip(&header) {
            *guess = columns.iter().find(|(known, _)| known == name).map(|(_, guess)| *guess).unwrap_or_default();
        }
        csv_file::sample(file, &header, &mut guesses)?;
        for (name, guess) in header.iter().zip(guesses) {
            columns.iter_mut().filter(|(known, _)| known == name).for_each(|(_, known)| *known = guess);
        }
    }
    let known = |name: &str| columns.iter().any(|(known, _)| known == name);
    if let Some(name) = declared.keys().find(|name| !known(name)) {
        let hint = hint(name, columns.iter().map(|(name, _)| name.as_str()));
        return Err(SourceError::file(&files[0], format!("no column `{name}`, which `types` declares; {hint}")));
    }
    Ok(columns.into_iter().map(|(name, guess)| declare(name, guess, declared)).collect())
}

fn ndjson_columns(
    files: &[PathBuf],
    declared: &BTreeMap<String, ColumnType>,
) -> Result<Vec<(String, ColumnType)>, SourceError> {
    let mut columns: Vec<(String, Guess)> = Vec::new();
    for file in files {
        ndjson_file::sample(file, &mut columns)?;
    }
    for name in declared.keys() {
        if !columns.iter().any(|(known, _)| known == name) {
            columns.push((name.clone(), Guess::default()));
        }
    }
    if columns.is_empty() {
        return Err(SourceError::file(
            &files[0],
            "there is no row to tell the columns from; declare them with `types`",
        ));
    }
    Ok(columns.into_iter().map(|(name, guess)| declare(name, guess, declared)).collect())
}

fn declare(name: String, guess: Guess, declared: &BTreeMap<String, ColumnType>) -> (String, ColumnType) {
    let kind = declared.get(&name).copied().unwrap_or_else(|| guess.decide());
    (name, kind)
}

/// The rows of the files, one file after the other; nothing follows an error.
struct Rows {
    schema: SchemaRef,
    files: std::vec::IntoIter<PathBuf>,
    format: FileFormat,
    kinds: Vec<(String, ColumnType)>,
    current: Option<(PathBuf, Batches)>,
    failed: bool,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.batch().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl Rows {
    fn batch(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        loop {
            if let Some((file, batches)) = &mut self.current {
                if let Some(batch) = batches.next() {
                    return conform(&batch?, &self.schema, file).map(Some);
                }
                self.current = None;
            }
            let Some(file) = self.files.next() else { return Ok(None) };
            let batches = match self.format {
                FileFormat::Parquet => {
                    let wanted: Vec<String> = self.schema.fields().iter().map(|field| field.name().clone()).collect();
                    parquet_file::batches(&file, &wanted)?
                }
                FileFormat::Csv => csv_file::batches(&file, &self.kinds)?,
                FileFormat::Ndjson => ndjson_file::batches(&file, &self.kinds)?,
            };
            self.current = Some((file, batches));
        }
    }
}

/// The batch in the table's order of columns. A file that was changed since its columns were looked at is an error.
fn conform(batch: &RecordBatch, schema: &SchemaRef, file: &Path) -> Result<RecordBatch, SourceError> {
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name());
        column.filter(|column| column.data_type() == field.data_type()).cloned().ok_or_else(|| {
            SourceError::file(file, format!("column `{}` changed while the file was read; run again", field.name()))
        })
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| SourceError::file(file, error))
}
