//! The table of rejected rows: the first of each delivery, with their keys.

use rusqlite::{Connection, params};

use super::StateError;
use super::database::{Database, signed};
use crate::project::DestinationName;
use crate::run::{RejectedRow, Rejection};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS rejected_rows (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    key TEXT,
    row INTEGER,
    field TEXT,
    code TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS rejected_rows_of_run ON rejected_rows (run);
";

impl Database {
    /// The rejected rows that were kept of a run; `None` if there is no such run.
    pub(crate) fn rejected(&self, run: &str) -> Result<Option<Vec<RejectedRow>>, StateError> {
        self.with(|connection| {
            let known: i64 =
                connection.query_row("SELECT count(*) FROM runs WHERE id = ?1", [run], |row| row.get(0))?;
            if known == 0 {
                return Ok(None);
            }
            let query =
                "SELECT destination, key, row, field, code, message FROM rejected_rows WHERE run = ?1 ORDER BY rowid";
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map([run], |row| {
                let rejection = Rejection {
                    key: row.get(1)?,
                    row: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
                    field: row.get(3)?,
                    code: row.get(4)?,
                    message: row.get(5)?,
                };
                Ok(RejectedRow { destination: row.get(0)?, rejection })
            })?;
            rows.collect::<rusqlite::Result<_>>().map(Some)
        })
    }
}

/// Keeps the rejected rows of a delivery.
pub(super) fn insert(
    connection: &Connection,
    run: &str,
    destination: &DestinationName,
    rejections: &[Rejection],
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO rejected_rows (run, destination, key, row, field, code, message)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let mut insert = connection.prepare(insert)?;
    for Rejection { key, row, field, code, message } in rejections {
        insert.execute(params![run, destination.as_str(), key, row.map(signed), field, code, message])?;
    }
    Ok(())
}
