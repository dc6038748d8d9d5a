//! The table of cursors: how far the rows of each destination of an incremental sync were read.

use std::collections::BTreeSet;

use jiff::Timestamp;
use larder_types::names::SyncName;
use rusqlite::{OptionalExtension as _, Row, params};

use super::StateError;
use super::database::Database;
use crate::project::DestinationName;
use crate::run::window::{Cursor, CursorKind};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS cursors (
    sync TEXT NOT NULL,
    destination TEXT NOT NULL,
    column_name TEXT NOT NULL,
    -- timestamp or instant (microseconds since 1970), date (days since 1970), int.
    kind TEXT NOT NULL,
    -- The greatest value that was read and answered.
    seen INTEGER NOT NULL,
    -- The values of rows that were rejected, as a JSON list.
    rejected TEXT NOT NULL,
    -- When all rows were read last, in milliseconds since 1970.
    full_at INTEGER NOT NULL,
    PRIMARY KEY (sync, destination)
) STRICT;
";

impl Database {
    /// How far the rows of a destination were read, if that is known.
    pub(crate) fn cursor(&self, sync: &SyncName, name: &DestinationName) -> Result<Option<Cursor>, StateError> {
        let query =
            "SELECT column_name, kind, seen, rejected, full_at FROM cursors WHERE sync = ?1 AND destination = ?2";
        let found =
            self.with(|connection| connection.query_row(query, [sync.as_str(), name.as_str()], read).optional())?;
        Ok(found.flatten())
    }

    /// Moves the cursor of a destination.
    pub(crate) fn set_cursor(
        &self,
        sync: &SyncName,
        name: &DestinationName,
        cursor: &Cursor,
    ) -> Result<(), StateError> {
        let insert = "INSERT OR REPLACE INTO cursors (sync, destination, column_name, kind, seen, rejected, full_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let Cursor { column, kind, seen, rejected, full_at } = cursor;
        let rejected: Vec<String> = rejected.iter().map(i64::to_string).collect();
        let rejected = format!("[{}]", rejected.join(","));
        let full_at = full_at.as_millisecond();
        let values = params![sync.as_str(), name.as_str(), column, kind.as_str(), seen, rejected, full_at];
        self.with(|connection| connection.execute(insert, values).map(drop))
    }
}

/// A row that makes no sense counts as none: all rows are then read.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<Cursor>> {
    let (column, kind, seen): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (rejected, full_at): (String, i64) = (row.get(3)?, row.get(4)?);
    let rejected: Option<BTreeSet<i64>> = serde_json::from_str(&rejected).ok();
    let full_at = Timestamp::from_millisecond(full_at).ok();
    let (Some(kind), Some(rejected), Some(full_at)) = (CursorKind::from_word(&kind), rejected, full_at) else {
        return Ok(None);
    };
    Ok(Some(Cursor { column, kind, seen, rejected, full_at }))
}
