//! Scratch databases: tables of files loaded into SQLite for one statement.
//!
//! Only the tables and columns that the statement reads are loaded. The file is taken out of its folder as soon as it
//! is open, so that it vanishes with the connection, also when the process is killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use rusqlite::Connection;
use rusqlite::types::ToSqlOutput;

use super::SourceError;
use super::cells::{Cells, declaration};
use super::query::{self, Shape, quoted};
use super::statement::Statement;
use super::table::Table;
use crate::cancel::Cancel;
use crate::project::FileTable;
use crate::project::suggest::hint;

/// The tables that a statement may read, by name.
type Tables = BTreeMap<String, Table>;

/// The columns of a statement over files, found without reading their rows.
pub(super) fn describe(tables: &BTreeMap<String, FileTable>, select: &Statement) -> Result<SchemaRef, SourceError> {
    let (mut connection, _) = empty(tables, select)?;
    query::describe(&mut connection, select).map_err(|error| name_tables(error, tables))
}

/// Loads what a statement reads into a scratch database in `folder` and returns the connection to it.
pub(super) fn load(
    tables: &BTreeMap<String, FileTable>,
    select: &Statement,
    folder: &Path,
    cancel: &Cancel,
) -> Result<Connection, SourceError> {
    let (mut connection, opened) = empty(tables, select)?;
    let shape = query::check(&mut connection, select).map_err(|error| name_tables(error, tables))?;
    drop(connection);

    let (connection, file) = create(folder)?;
    let fault = |error: rusqlite::Error| SourceError::file(&file, error);
    connection.execute_batch("BEGIN").map_err(fault)?;
    for (name, table) in opened {
        let Some(wanted) = wanted(&shape, &name, &table) else { continue };
        create_table(&connection, &name, &table.schema())?;
        let insert = insert_statement(&name, &wanted);
        let mut insert = connection.prepare(&insert).map_err(fault)?;
        let batches = table.batches(Some(&wanted)).map(|batch| match cancel.why() {
            Some(_) => Err(SourceError::Cancelled),
            None => batch,
        });
        fill(&mut insert, &name, batches, &file)?;
    }
    connection.execute_batch("COMMIT").map_err(fault)?;
    Ok(connection)
}

/// A database in memory that has the tables that the statement mentions, without rows.
fn empty(tables: &BTreeMap<String, FileTable>, select: &Statement) -> Result<(Connection, Tables), SourceError> {
    let connection = Connection::open_in_memory().map_err(|error| SourceError::Message(error.to_string()))?;
    let text = select.text.to_ascii_lowercase();
    let mut opened = Tables::new();
    // A table cannot be read without being mentioned; which of those mentioned are read, SQLite tells later.
    for (name, spec) in tables.iter().filter(|(name, _)| text.contains(&name.to_ascii_lowercase())) {
        let table = Table::open(name, spec)?;
        create_table(&connection, name, &table.schema())?;
        opened.insert(name.clone(), table);
    }
    Ok((connection, opened))
}

/// Adds to SQLite's "no such table" what tables there are.
fn name_tables(error: SourceError, tables: &BTreeMap<String, FileTable>) -> SourceError {
    match error {
        SourceError::Statement { model, reason } => {
            let reason = match reason.split_once("no such table: ") {
                Some((_, name)) => {
                    let hint = hint(name, tables.keys().map(String::as_str));
                    format!("{reason}; {hint}")
                }
                None => reason,
            };
            SourceError::Statement { model, reason }
        }
        other => other,
    }
}

/// The columns of a table that the statement reads, or none if it does not read the table. A statement that only counts
/// rows needs one column all the same.
fn wanted(shape: &Shape, name: &str, table: &Table) -> Option<Vec<String>> {
    let read = |column: &str| {
        shape.reads.iter().any(|(table, read)| table.eq_ignore_ascii_case(name) && read.eq_ignore_ascii_case(column))
    };
    if !shape.reads.iter().any(|(table, _)| table.eq_ignore_ascii_case(name)) {
        return None;
    }
    let schema = table.schema();
    let mut wanted: Vec<String> =
        schema.fields().iter().filter(|field| read(field.name())).map(|field| field.name().clone()).collect();
    if wanted.is_empty() {
        wanted.extend(schema.fields().first().map(|field| field.name().clone()));
    }
    Some(wanted)
}

/// Opens a new file in `folder` for bulk loading: no journal and no waiting for the disk, since nobody needs the file
/// after a crash.
fn create(folder: &Path) -> Result<(Connection, PathBuf), SourceError> {
    fs::create_dir_all(folder).map_err(|error| SourceError::file(folder, error))?;
    let random = getrandom::u64().map_err(|error| SourceError::Message(format!("no random numbers: {error}")))?;
    let file = folder.join(format!("model-{random:016x}.sqlite"));
    let fault = |error: rusqlite::Error| SourceError::file(&file, error);
    let connection = Connection::open(&file).map_err(fault)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA cache_size = -65536;",
        )
        .map_err(fault)?;
    fs::remove_file(&file).map_err(|error| SourceError::file(&file, error))?;
    Ok((connection, file))
}

/// Makes a table with all its columns, those that are not loaded too, so that the statement means the same.
fn create_table(connection: &Connection, name: &str, schema: &SchemaRef) -> Result<(), SourceError> {
    let mut columns = Vec::new();
    for field in schema.fields() {
        let Some(declaration) = declaration(field) else {
            return Err(SourceError::Message(format!(
                "table `{name}`, column `{}`: SQL cannot hold its type {}; sync it with `table: {name}`",
                field.name(),
                field.data_type()
            )));
        };
        columns.push(format!("{} {declaration}", quoted(field.name())));
    }
    connection
        .execute_batch(&format!("CREATE TABLE {} ({})", quoted(name), columns.join(", ")))
        .map_err(|error| SourceError::Message(format!("table `{name}`: {error}")))
}

fn insert_statement(name: &str, columns: &[String]) -> String {
    let names: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(name), names.join(", "))
}

fn fill(
    insert: &mut rusqlite::Statement<'_>,
    name: &str,
    batches: impl Iterator<Item = Result<RecordBatch, SourceError>>,
    file: &Path,
) -> Result<(), SourceError> {
    for batch in batches {
        let batch = batch?;
        let columns = cells(&batch, name)?;
        for row in 0..batch.num_rows() {
            for (position, column) in columns.iter().enumerate() {
                let value = ToSqlOutput::Borrowed(column.value(row));
                insert.raw_bind_parameter(position + 1, value).map_err(|error| SourceError::file(file, error))?;
            }
            insert.raw_execute().map_err(|error| SourceError::file(file, error))?;
        }
    }
    Ok(())
}

fn cells(batch: &RecordBatch, name: &str) -> Result<Vec<Cells>, SourceError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns
        .map(|(field, column)| {
            Cells::of(field, column)
                .map_err(|error| SourceError::Message(format!("table `{name}`, column `{}`: {error}", field.name())))
        })
        .collect()
}
