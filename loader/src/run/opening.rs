//! Opening: which rows of the model are asked for. All, or for an incremental sync those of a window.
//!
//! A window serves only if every destination has a state that it can be compared with, made by the same mapping. All
//! rows are read otherwise, and whenever it is time.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Schema};
use jiff::Timestamp;
use larder_types::value::Value;

use super::open;
use super::report::Rejection;
use super::stop::Stop;
use super::window::{Cursor, CursorKind, NO_VALUE, Sight, Window};
use crate::cancel::Cancel;
use crate::diff::join::Absence;
use crate::diff::marks::{Marks, MarksWriter};
use crate::diff::snapshot::{Hashes, Header, Snapshot};
use crate::mapping::column::Column;
use crate::mapping::{self, Mapping, Problem};
use crate::project::{DiffSpec, Incremental, Project, SourceSpec, SyncSpec};
use crate::source::RowStream;
use crate::source::warehouse::warehouse;
use crate::state::{DestinationState, State, SyncState};

/// Rows that are about to be read.
pub(super) struct Opened {
    pub(super) rows: RowStream,
    pub(super) mapping: Mapping,
    pub(super) extent: Extent,
}

/// Which rows they are.
pub(super) struct Extent {
    pub(super) absence: Absence,
    pub(super) cursor: Option<CursorReader>,
}

/// What is asked for.
pub(super) struct Request<'a> {
    pub(super) project: &'a Project,
    pub(super) spec: &'a SyncSpec,
    /// Those that can be fed.
    pub(super) destinations: Vec<Known>,
    /// All rows are needed.
    pub(super) all: bool,
    /// Only some of the rows will be taken in, from which nothing follows for the next run.
    pub(super) partial: bool,
    pub(super) now: Timestamp,
    /// Takes temporary files.
    pub(super) dir: &'a Path,
    pub(super) cancel: &'a Cancel,
}

/// What matters of a destination for the question whether a window serves it.
pub(super) struct Known {
    cursor: Option<Cursor>,
    /// Of the mapping that its state was made by, if that can be relied on.
    fingerprint: Option<u128>,
}

impl Known {
    /// Loads it. What cannot be read is not known, so that all rows are read.
    pub(super) fn load(state: &State, sync: &SyncState, spec: &SyncSpec, destination: &DestinationState) -> Self {
        let snapshot = destination.snapshot().ok().flatten();
        let is_usable = |header: &&Header| {
            header.hashes == Hashes::Cells
                && header.secret == sync.secret
                && header.collection == spec.collection.as_str()
                && destination.row.distrust.is_none()
                && destination.base.is_none()
        };
        let header = snapshot.as_ref().map(Snapshot::header).filter(is_usable);
        let fingerprint = header.map(|header| header.fingerprint);
        let cursor = state.database.cursor(&destination.sync, &destination.name).ok().flatten();
        Self { cursor, fingerprint }
    }
}

impl Request<'_> {
    /// Opens the rows.
    pub(super) fn open(&self) -> Result<Opened, Stop> {
        let incremental = match &self.spec.diff {
            DiffSpec::Incremental(incremental) if !self.partial => Some(incremental),
            _ => None,
        };
        let Some(incremental) = incremental else {
            let (rows, mapping) = open(self.project, self.spec, self.cancel).map_err(Stop::of_opening)?;
            return Ok(Opened { rows, mapping, extent: Extent { absence: Absence::Removed, cursor: None } });
        };
        if let Some(window) = self.window(incremental)?
            && let Some((rows, mapping)) = self.open_window(&window)?
        {
            let cursor = CursorReader::new(incremental, &rows.schema, self.dir, None)?;
            return Ok(Opened { rows, mapping, extent: Extent { absence: Absence::Unknown, cursor: Some(cursor) } });
        }
        let (rows, mapping) = open(self.project, self.spec, self.cancel).map_err(Stop::of_opening)?;
        let cursor = CursorReader::new(incremental, &rows.schema, self.dir, Some(self.now))?;
        Ok(Opened { rows, mapping, extent: Extent { absence: Absence::Removed, cursor: Some(cursor) } })
    }

    fn window(&self, incremental: &Incremental) -> Result<Option<Window>, Stop> {
        if self.all || self.destinations.iter().any(|known| known.fingerprint.is_none()) {
            return Ok(None);
        }
        let cursors: Vec<Option<Cursor>> = self.destinations.iter().map(|known| known.cursor.clone()).collect();
        Window::of(incremental, &cursors, self.now).map_err(|reason| self.problem(&reason))
    }

    /// The rows of a window, unless the mapping has changed, so that all rows are needed.
    fn open_window(&self, window: &Window) -> Result<Option<(RowStream, Mapping)>, Stop> {
        let source: &SourceSpec =
            self.project.sources.get(&self.spec.source).ok_or_else(|| self.problem("its source is gone"))?;
        let warehouse = warehouse(source, self.cancel).map_err(Stop::failed)?;
        let warehouse = warehouse.ok_or_else(|| self.problem("`incremental` needs a source that runs SQL"))?;
        let statement = window.statement(&self.spec.model, warehouse.dialect());
        let rows =
            warehouse.query(&statement).map_err(|error| Stop::Failed(format!("sync `{}`: {error}", self.spec.name)))?;
        let mapping = mapping::compile(self.spec, &rows.schema)
            .map_err(|problems| Stop::Config(problems.iter().map(Problem::to_string).collect()))?;
        let is_same = |known: &Known| known.fingerprint == Some(mapping.fingerprint());
        Ok(self.destinations.iter().all(is_same).then_some((rows, mapping)))
    }

    fn problem(&self, reason: &str) -> Stop {
        Stop::Config(vec![format!("sync `{}`: {reason}", self.spec.name)])
    }
}

/// Watches the cursor column while rows are read.
pub(super) struct CursorReader {
    column: String,
    index: usize,
    kind: CursorKind,
    newest: Option<i64>,
    marks: MarksWriter,
    full_at: Option<Timestamp>,
}

/// What was read of the cursor column.
pub(super) struct CursorRead {
    pub(super) sight: Sight,
    marks: Marks,
}

impl CursorReader {
    fn new(spec: &Incremental, schema: &Schema, dir: &Path, full_at: Option<Timestamp>) -> Result<Self, Stop> {
        let column = spec.column.clone();
        let unfit = |what: String| Stop::Config(vec![format!("the column `{column}` of `incremental` {what}")]);
        let found = schema.column_with_name(&column);
        let (index, field) = found.ok_or_else(|| unfit("is not in the query's result".to_owned()))?;
        let kind = kind(field.data_type()).ok_or_else(|| {
            unfit(format!("has the type {}; it must hold times, dates or integers: cast it in SQL", field.data_type()))
        })?;
        let marks = MarksWriter::new(dir).map_err(Stop::failed)?;
        Ok(Self { index, kind, newest: None, marks, full_at, column })
    }

    /// Looks at the rows of a batch.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Result<(), Stop> {
        let schema = batch.schema();
        let column = Column::new(schema.field(self.index), batch.column(self.index)).map_err(Stop::failed)?;
        for row in 0..batch.num_rows() {
            let value = column.cell(row).ok().as_ref().and_then(number);
            self.newest = self.newest.max(value);
            self.marks.push(value.map_or(NO_VALUE, i64::cast_unsigned)).map_err(Stop::failed)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<CursorRead, Stop> {
        let newest = self.newest.map(|newest| (self.kind, newest));
        let sight = Sight { column: self.column, newest, full_at: self.full_at };
        Ok(CursorRead { sight, marks: self.marks.finish().map_err(Stop::failed)? })
    }
}

impl CursorRead {
    /// The values of rejected rows, of which there are `count`; none if they are not all known.
    pub(super) fn marks_of(&self, rejected: &[Rejection], count: u64) -> Option<BTreeSet<i64>> {
        if count != rejected.len() as u64 {
            return None;
        }
        let marks = rejected.iter().map(|rejection| self.marks.of(rejection.row?).ok().flatten());
        let marks: Option<BTreeSet<u64>> = marks.collect();
        Some(marks?.into_iter().filter(|mark| *mark != NO_VALUE).map(u64::cast_signed).collect())
    }
}

fn kind(column: &DataType) -> Option<CursorKind> {
    match column {
        DataType::Timestamp(_, None) => Some(CursorKind::Timestamp),
        DataType::Timestamp(_, Some(_)) => Some(CursorKind::Instant),
        DataType::Date32 | DataType::Date64 => Some(CursorKind::Date),
        DataType::Decimal32(_, 0) | DataType::Decimal64(_, 0) | DataType::Decimal128(_, 0) => Some(CursorKind::Int),
        column if column.is_integer() => Some(CursorKind::Int),
        _ => None,
    }
}

/// A value of the column; none if it is null, or so large that it cannot be one.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Timestamp(value) | Value::Int(value) => Some(*value),
        Value::Date(days) => Some(i64::from(*days)),
        Value::Decimal(decimal) => i64::try_from(decimal.mantissa()).ok().filter(|_| decimal.scale() == 0),
        _ => None,
    }
}
