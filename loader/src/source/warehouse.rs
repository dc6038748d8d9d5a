//! Warehouses: databases that run SQL for the loader, whichever they are.
//!
//! Invariants:
//! - a query only reads, as far as the database can be told so; writing goes through [`Warehouse::execute`] alone;
//! - parameters are bound, never put into the text.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_cast::cast;
use arrow_schema::{DataType, SchemaRef};

use super::adbc::Adbc;
use super::dialect::Dialect;
use super::statement::Statement;
use super::{RowStream, SourceError, query};
use crate::cancel::Cancel;
use crate::project::{Model, SourceSpec};

/// A database that runs SQL. Every call is a session of its own: what a session sets or makes temporarily is gone with
/// it.
pub(crate) trait Warehouse: Send + Sync {
    /// The SQL that it speaks.
    fn dialect(&self) -> Dialect;

    /// Whether [`Warehouse::execute`] may work at all.
    fn can_write(&self) -> bool;

    /// Runs a statement that reads and streams its rows. The statement is one `SELECT`.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses the statement. What goes wrong later is an item of the stream.
    fn query(&self, statement: &Statement) -> Result<RowStream, SourceError>;

    /// The columns that a statement would give, found without reading its rows.
    ///
    /// # Errors
    /// As [`Warehouse::query`].
    fn describe(&self, statement: &Statement) -> Result<SchemaRef, SourceError>;

    /// Runs statements that write, one after the other in one session and, where the database has transactions that
    /// cover them, in one transaction. Returns the rows that the last one changed, if the database tells.
    ///
    /// # Errors
    /// When the source cannot be written to, cannot be reached, or refuses a statement; what the ones before it did is
    /// undone where there are transactions. When the session ends without an answer, it is not known what was done.
    fn execute(&self, statements: &[Statement]) -> Result<Option<u64>, SourceError>;
}

/// The database of a source; none if the source has none. Whatever it is doing ends soon after `cancel` was decided.
///
/// # Errors
/// When the source cannot be used as its file says.
pub(crate) fn warehouse(spec: &SourceSpec, cancel: &Cancel) -> Result<Option<Box<dyn Warehouse>>, SourceError> {
    match spec {
        #[cfg(test)]
        SourceSpec::Sqlite { path } if super::writable::at(path, cancel).is_some() => {
            Ok(super::writable::at(path, cancel))
        }
        SourceSpec::Sqlite { path } => Ok(Some(Box::new(query::Database::new(path, cancel)))),
        SourceSpec::Driver(source) => Ok(Some(Box::new(Adbc::new(source, cancel)?))),
        SourceSpec::Files { .. } => Ok(None),
    }
}

/// Counts the rows of a model by a query of its own. It sees the data as they are when it runs: rows that came or went
/// since the model was read make another count, which is for the caller to weigh.
///
/// # Errors
/// As [`Warehouse::query`], and when the answer is not one number.
pub(crate) fn count(warehouse: &dyn Warehouse, model: &Model) -> Result<u64, SourceError> {
    let statement = Statement::of(model, warehouse.dialect()).counting(warehouse.dialect());
    let fault = || statement.fault("counting its rows gave no number");
    let mut number = None;
    for batch in warehouse.query(&statement)?.batches {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        if batch.num_rows() != 1 || number.is_some() {
            return Err(fault());
        }
        let column = cast(batch.column(0), &DataType::Int64).map_err(|_| fault())?;
        let value = column.as_primitive::<Int64Type>().iter().next().flatten();
        number = Some(value.and_then(|value| u64::try_from(value).ok()).ok_or_else(fault)?);
    }
    number.ok_or_else(fault)
}
