//! The table of holds: what a guard stopped, until it is approved and done, or overtaken.
//!
//! There is one for each destination at most: that of its newest run. It goes when a run is opened at the cluster, either
//! because it was approved and is used up, or because the guards did not object any more.

use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::StateError;
use super::database::{Database, signed};
use super::runs::DeliveryId;
use crate::run::{Findings, Hold};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS holds (
    sync TEXT NOT NULL,
    destination TEXT NOT NULL,
    -- The run that was stopped.
    run TEXT NOT NULL,
    held_at TEXT NOT NULL,
    approved_at TEXT,
    message TEXT NOT NULL,
    -- What it found.
    read INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    known INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    PRIMARY KEY (sync, destination)
) STRICT;
";

const COLUMNS: &str =
    "sync, destination, run, held_at, approved_at, message, read, removed, changed, known, missing FROM holds";

impl Database {
    /// What is held of a destination, if anything is.
    pub(crate) fn hold(&self, delivery: DeliveryId<'_>) -> Result<Option<Hold>, StateError> {
        let query = format!("SELECT {COLUMNS} WHERE sync = ?1 AND destination = ?2");
        let values = params![delivery.sync.as_str(), delivery.destination.as_str()];
        self.with(|connection| connection.query_row(&query, values, read).optional())
    }

    /// Everything that is held, of one sync or of all.
    pub(crate) fn holds(&self, sync: Option<&SyncName>) -> Result<Vec<Hold>, StateError> {
        let query = format!("SELECT {COLUMNS} WHERE ?1 IS NULL OR sync = ?1 ORDER BY sync, destination");
        self.with(|connection| {
            let mut statement = connection.prepare(&query)?;
            statement.query_map([sync.map(SyncName::as_str)], read)?.collect()
        })
    }

    /// Approves what is held of a run, and returns it; nothing, if nothing is.
    pub(crate) fn approve(&self, run: &str, now: &str) -> Result<Vec<Hold>, StateError> {
        self.transact(|transaction| {
            let update = "UPDATE holds SET approved_at = coalesce(approved_at, ?2) WHERE run = ?1";
            transaction.execute(update, [run, now])?;
            let query = format!("SELECT {COLUMNS} WHERE run = ?1 ORDER BY destination");
            let mut statement = transaction.prepare(&query)?;
            statement.query_map([run], read)?.collect()
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Hold> {
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Hold {
        sync: row.get(0)?,
        destination: row.get(1)?,
        run: row.get(2)?,
        held_at: row.get(3)?,
        approved_at: row.get(4)?,
        message: row.get(5)?,
        found: Findings {
            read: count(6)?,
            removed: count(7)?,
            changed: count(8)?,
            known: count(9)?,
            missing: count(10)?,
        },
    })
}

/// Holds what a run found, in the place of what an earlier one did.
pub(super) fn put(
    connection: &Connection,
    delivery: DeliveryId<'_>,
    found: Findings,
    message: &str,
    now: &str,
) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO holds
        (sync, destination, run, held_at, message, read, removed, changed, known, missing)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        delivery.sync.as_str(),
        delivery.destination.as_str(),
        delivery.run,
        now,
        message,
        signed(found.read),
        signed(found.removed),
        signed(found.changed),
        signed(found.known),
        signed(found.missing)
    ];
    connection.execute(insert, values).map(drop)
}

/// Nothing is held any more.
pub(super) fn drop_of(connection: &Connection, delivery: DeliveryId<'_>) -> rusqlite::Result<()> {
    let delete = "DELETE FROM holds WHERE sync = ?1 AND destination = ?2";
    connection.execute(delete, params![delivery.sync.as_str(), delivery.destination.as_str()]).map(drop)
}
