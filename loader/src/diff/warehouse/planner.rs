//! The planner: makes the tables of a sync, asks for deltas, and sweeps what no destination needs.

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_cast::cast;
use arrow_schema::DataType;

use super::layout::{Layout, Wanted};
use crate::source::statement::Statement;
use crate::source::warehouse::Warehouse;
use crate::source::{RowStream, SourceError};

/// Why the warehouse did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlannerError {
    /// Neither tables nor their schema can be made.
    #[error(
        "{source}; nor can the schema {schema} be made: {refused}; if it is missing, create it and let this user create \
         and drop tables in it, or name another with `planner_schema`"
    )]
    Refused {
        /// The schema.
        schema: String,
        /// Why not the tables.
        source: Box<SourceError>,
        /// Why not the schema.
        refused: Box<SourceError>,
    },
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A count is no number.
    #[error("the warehouse counted rows and gave no number")]
    Count,
}

/// What a result holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ResultCounts {
    pub(crate) rows: u64,
    /// Rows whose key is null.
    pub(crate) keyless: u64,
    pub(crate) keys: u64,
    /// Keys that more than one row has.
    pub(crate) shared: u64,
}

/// The tables of one sync in its warehouse.
pub(crate) struct Planner<'a> {
    pub(crate) warehouse: &'a dyn Warehouse,
    pub(crate) layout: Layout,
}

impl Planner<'_> {
    /// Runs the model and makes the tables of result `number`, and the schema if none `is_there` yet.
    ///
    /// # Errors
    /// When the model fails, or tables cannot be made.
    pub(crate) fn materialise(
        &self,
        model: &Statement,
        number: u64,
        is_there: bool,
    ) -> Result<ResultCounts, PlannerError> {
        // May be refused although the schema is there, so it is an error only if tables cannot be made either.
        let create = [self.layout.create_schema()];
        let refused = if is_there { None } else { self.warehouse.execute(&create).err() };
        self.warehouse.execute(&self.layout.materialise(model, number)).map_err(|source| match refused {
            Some(refused) => PlannerError::Refused {
                schema: self.layout.schema.join("."),
                source: Box::new(source),
                refused: Box::new(refused),
            },
            None => source.into(),
        })?;
        let [rows, keyless, keys, shared] = self.numbers(&self.layout.count_result(number))?;
        Ok(ResultCounts { rows, keyless, keys, shared })
    }

    /// Whether the keys of a result are all there: tables in a schema that others can write to may have been emptied.
    ///
    /// # Errors
    /// When the warehouse cannot be asked, or has no such table.
    pub(crate) fn has_keys(&self, number: u64, keys: u64) -> Result<bool, PlannerError> {
        let [found] = self.numbers(&self.layout.count_keys(number))?;
        Ok(found == keys)
    }

    /// The rows of a result, see [`Layout::delta`].
    ///
    /// # Errors
    /// When the warehouse cannot be asked.
    pub(crate) fn delta(&self, number: u64, base: Option<u64>, wanted: Wanted<'_>) -> Result<RowStream, PlannerError> {
        Ok(self.warehouse.query(&self.layout.delta(number, base, wanted))?)
    }

    /// How many rows [`Self::delta`] must give.
    ///
    /// # Errors
    /// When the warehouse cannot be asked.
    pub(crate) fn count_delta(&self, number: u64, base: Option<u64>, wanted: Wanted<'_>) -> Result<u64, PlannerError> {
        let [rows] = self.numbers(&self.layout.count_delta(number, base, wanted))?;
        Ok(rows)
    }

    /// The keys of a result.
    ///
    /// # Errors
    /// When the warehouse cannot be asked, or has no such table.
    pub(crate) fn keys(&self, number: u64) -> Result<RowStream, PlannerError> {
        Ok(self.warehouse.query(&self.layout.keys(number))?)
    }

    /// Drops results, and the rows of those that are kept.
    ///
    /// # Errors
    /// When a table cannot be dropped.
    pub(crate) fn sweep(&self, dropped: &[u64], kept: &[u64]) -> Result<(), PlannerError> {
        let mut statements: Vec<Statement> =
            dropped.iter().flat_map(|number| self.layout.drop_result(*number)).collect();
        statements.extend(kept.iter().map(|number| self.layout.drop_rows(*number)));
        if !statements.is_empty() {
            self.warehouse.execute(&statements)?;
        }
        Ok(())
    }

    /// The numbers of a statement's only row.
    fn numbers<const N: usize>(&self, statement: &Statement) -> Result<[u64; N], PlannerError> {
        let mut found = None;
        for batch in self.warehouse.query(statement)?.batches {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            if batch.num_columns() != N || batch.num_rows() != 1 || found.is_some() {
                return Err(PlannerError::Count);
            }
            let mut numbers = [0; N];
            for (number, column) in numbers.iter_mut().zip(batch.columns()) {
                let column = cast(column, &DataType::Int64).map_err(|_| PlannerError::Count)?;
                let value = column.as_primitive::<Int64Type>().iter().next().flatten();
                *number = value.and_then(|value| u64::try_from(value).ok()).ok_or(PlannerError::Count)?;
            }
            found = Some(numbers);
        }
        found.ok_or(PlannerError::Count)
    }
}
