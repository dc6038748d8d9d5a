//! Reading: the rows of a query, taken in once for all destinations.

use std::sync::Arc;

use larder_types::key::KeyError;

use super::Phase;
use super::gauge::Gauge;
use super::opening::{CursorRead, CursorReader, Extent};
use super::planned::PlannedRows;
use super::scope::Scope;
use super::stop::Stop;
use crate::cancel::Cancel;
use crate::diff::Intake;
use crate::diff::join::{Absence, MAX_EXAMPLES};
use crate::diff::spill::Spilled;
use crate::mapping::Mapping;
use crate::source::RowStream;

/// What the query returned, ready to be compared. Clones share it.
#[derive(Clone)]
pub(crate) struct Taken {
    pub(super) spilled: Arc<Spilled>,
    /// Rows that the query returned.
    pub(super) read: u64,
    pub(super) bad: Arc<BadKeys>,
    /// Whether a key that did not come in counts as removed.
    pub(super) absence: Absence,
    /// What was seen of the cursor column of an incremental sync.
    pub(super) cursor: Option<Arc<CursorRead>>,
    /// What comes with the rows of a delta of the warehouse's.
    pub(super) planned: Option<Arc<PlannedRows>>,
}

/// Takes in the rows that are in scope.
pub(super) fn take_in(
    mapping: &Mapping,
    (rows, mut extent): (RowStream, Extent),
    mut intake: Intake,
    gauge: &Gauge<'_>,
    cancel: &Cancel,
    scope: &Scope,
) -> Result<Taken, Stop> {
    let mut read = 0;
    let mut bad = BadKeys::default();
    let mut cells = Vec::new();
    'rows: for batch in rows.batches {
        // Before the error: whoever is told to stop may well say that it failed.
        if let Some(why) = cancel.why() {
            return Err(Stop::Cancelled(why));
        }
        let batch = batch.map_err(|error| Stop::Failed(format!("reading stopped after {read} rows: {error}")))?;
        let reader = mapping
            .reader(&batch)
            .map_err(|error| Stop::Failed(format!("the source's rows cannot be read: {error}")))?;
        if let Some(cursor) = &mut extent.cursor {
            cursor.take(&batch)?;
        }
        for row in 0..batch.num_rows() {
            if scope.is_enough(read) {
                break 'rows;
            }
            read += 1;
            match reader.key(row) {
                Ok(key) if !scope.has(key.as_str()) => {}
                Ok(key) => {
                    cells.clear();
                    reader.encode(row, &mut cells);
                    intake.add(read, &key, &cells).map_err(Stop::failed)?;
                }
                Err(error) if scope.has_keyless() => bad.add(read, error),
                Err(_) => {}
            }
        }
        gauge.advance(Phase::Reading, batch.num_rows() as u64);
    }
    let cursor = extent.cursor.map(CursorReader::finish).transpose()?.map(Arc::new);
    Ok(Taken {
        spilled: Arc::new(intake.finish()),
        read,
        bad: Arc::new(bad),
        absence: if scope.is_all() { extent.absence } else { scope.absence() },
        cursor,
        planned: None,
    })
}

/// Rows without a usable key. Which records they had before cannot be told.
#[derive(Debug, Default)]
pub(super) struct BadKeys {
    pub(super) nulls: BadRows,
    /// Empty, too long, or of a kind that has no one text.
    pub(super) unusable: BadRows,
}

/// Rows with one kind of bad key: their number, and the first of them.
#[derive(Debug, Default)]
pub(super) struct BadRows {
    pub(super) count: u64,
    pub(super) first: Vec<(u64, KeyError)>,
}

impl BadKeys {
    pub(super) fn add(&mut self, row: u64, error: KeyError) {
        let rows = if error == KeyError::Null { &mut self.nulls } else { &mut self.unusable };
        rows.count += 1;
        if rows.first.len() < MAX_EXAMPLES {
            rows.first.push((row, error));
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.nulls.count + self.unusable.count
    }
}

impl BadRows {
    /// The first rows, as a message names them.
    pub(super) fn places(&self) -> String {
        let rows: Vec<String> = self.first.iter().map(|(row, _)| row.to_string()).collect();
        if rows.is_empty() {
            return "the warehouse counted them".to_owned();
        }
        format!("row {}{}", rows.join(", "), more(self.count, rows.len()))
    }
}

pub(super) fn more(count: u64, named: usize) -> &'static str {
    if count > named as u64 { ", …" } else { "" }
}
