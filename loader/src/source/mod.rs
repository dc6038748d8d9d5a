//! Sources: where rows come from.
//!
//! Two drivers are inside this process: an SQLite database opened read-only, and files (Parquet, CSV, NDJSON) presented
//! as tables. A model that is a table of files streams straight from the files; any other model of theirs is SQL that
//! SQLite runs: for files, the tables that the statement uses are first loaded into a scratch database. All other
//! databases are reached through ADBC drivers, each in a process of its own (module `adbc`).
//!
//! Invariants:
//! - rows come in batches of at most `BATCH_ROWS`, so memory is bounded whatever the size of the result;
//! - an error in the middle of the rows is an item of the stream and its last one; the stream ends without an error
//!   only after the last row;
//! - a model reads and can do nothing else;
//! - messages name files, tables, columns and row numbers, and never show the content of a row.

pub mod adbc;
mod cells;
mod columns;
mod csv_file;
pub(crate) mod dialect;
mod dynamic;
mod glob;
mod guard;
mod infer;
mod ndjson_file;
mod parquet_file;
mod query;
mod quotes;
mod scratch;
pub(crate) mod statement;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod warehouse;
#[cfg(test)]
pub(crate) mod writable;

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use self::dialect::Dialect;
use self::statement::Statement;
use self::warehouse::Warehouse;
use crate::cancel::Cancel;
use crate::project::{Model, Project, SourceSpec};

/// How long a thread waits for rows before it looks whether it is to go on.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// Most rows in one batch.
pub(crate) const BATCH_ROWS: usize = 4096;

/// Where a column says that its values are more than their Arrow type tells.
const EXTENSION_NAME: &str = "ARROW:extension:name";
/// Texts that are JSON, so that a list or object among them is meant as one.
const JSON_EXTENSION: &str = "arrow.json";
/// Sixteen bytes that are a UUID.
const UUID_EXTENSION: &str = "arrow.uuid";

/// Why a source could not be read. Each says which source, table or file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source is not as the project says: see the message.
    #[error("{0}")]
    Message(String),
    /// A file cannot be opened or read, or does not hold what its format demands.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A model's statement is refused, or failed while it ran.
    #[error("model `{model}`: {reason}")]
    Statement {
        /// The model, or the table that is read whole.
        model: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Whoever asked for the rows wants them no more.
    #[error("reading was cancelled")]
    Cancelled,
    /// A value does not fit its column.
    #[error("{place}, row {row}, column `{column}`: {reason}")]
    Cell {
        /// The file or model.
        place: String,
        /// The row, counted from 1.
        row: u64,
        /// The column.
        column: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl SourceError {
    fn file(file: &Path, reason: impl ToString) -> Self {
        Self::File { file: file.to_path_buf(), reason: reason.to_string() }
    }
}

/// Batches of one schema. The first error is the last item.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, SourceError>> + Send>;

/// The rows of a model, in batches. Blocking; may be moved to another thread. An error in the middle of the stream is
/// an `Err` item and ends it: it must never look like the end of the data.
pub struct RowStream {
    /// The columns.
    pub schema: SchemaRef,
    /// The batches, all of this schema.
    pub batches: Box<dyn Iterator<Item = Result<RecordBatch, SourceError>> + Send>,
}

/// Opens the rows of a model.
///
/// Types of the columns: those of the files for a table of files. SQLite gives every value a type of its own, so for
/// anything that SQLite runs the values of the first batch decide: integers, floats where there is any float, text
/// where there is any text (see `dynamic`); where they are all NULL, the declared type or a `CAST` decides.
///
/// The rows end with [`SourceError::Cancelled`] soon after `cancel` was decided, also while a database is waited for.
///
/// # Errors
/// When the source cannot be opened or the statement is refused.
pub fn open(project: &Project, spec: &SourceSpec, model: &Model, cancel: &Cancel) -> Result<RowStream, SourceError> {
    match (spec, model) {
        (SourceSpec::Files { tables }, Model::Table(name)) => {
            let table = table::Table::open(name, table::find(tables, name)?)?;
            Ok(RowStream { schema: table.schema(), batches: table.batches(None) })
        }
        (SourceSpec::Files { tables }, model @ Model::Sql { .. }) => {
            let select = Statement::of(model, Dialect::Sqlite);
            let scratch = scratch::load(tables, &select, &project.state_dir.join("tmp"), cancel)?;
            query::open(scratch, &select, cancel)
        }
        (spec, model) => {
            let warehouse = database(spec, cancel)?;
            warehouse.query(&Statement::of(model, warehouse.dialect()))
        }
    }
}

/// The columns that [`open`] would give, found without reading the rows. Columns of SQL whose type only their values
/// tell have the type [`arrow_schema::DataType::Null`].
///
/// # Errors
/// As [`open`].
pub fn describe(spec: &SourceSpec, model: &Model) -> Result<SchemaRef, SourceError> {
    match (spec, model) {
        (SourceSpec::Files { tables }, Model::Table(name)) => {
            Ok(table::Table::open(name, table::find(tables, name)?)?.schema())
        }
        (SourceSpec::Files { tables }, model @ Model::Sql { .. }) => {
            scratch::describe(tables, &Statement::of(model, Dialect::Sqlite))
        }
        (spec, model) => {
            let warehouse = database(spec, &Cancel::default())?;
            warehouse.describe(&Statement::of(model, warehouse.dialect()))
        }
    }
}

/// Counts the rows of a model by a query of its own, to compare with the rows that [`open`] gave; see
/// `warehouse::count` for what the number means when data change in between. None for files, which are read by this
/// process itself: nobody stands between them and the rows who could lose some.
///
/// # Errors
/// As [`open`].
pub fn count(spec: &SourceSpec, model: &Model, cancel: &Cancel) -> Result<Option<u64>, SourceError> {
    match warehouse::warehouse(spec, cancel)? {
        Some(warehouse) => warehouse::count(warehouse.as_ref(), model).map(Some),
        None => Ok(None),
    }
}

fn database(spec: &SourceSpec, cancel: &Cancel) -> Result<Box<dyn Warehouse>, SourceError> {
    warehouse::warehouse(spec, cancel)?.ok_or_else(|| SourceError::Message("the source has no database".to_owned()))
}
