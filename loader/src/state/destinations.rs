//! The table of destinations: what each of them has acknowledged of a sync.

use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::StateError;
use super::database::{Database, signed};
use crate::project::DestinationName;
use crate::run::ResendReason;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS destinations (
    sync TEXT NOT NULL,
    destination TEXT NOT NULL,
    -- The number of the snapshot file that holds what the cluster has acknowledged; null before the first run.
    snapshot INTEGER,
    -- The newest generation that the cluster gave to a run of this sync; 0 before the first.
    generation INTEGER NOT NULL DEFAULT 0,
    -- Why the acknowledged state says nothing about the cluster; null if it does.
    distrust TEXT,
    PRIMARY KEY (sync, destination)
) STRICT;
";

/// What is remembered of a destination of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DestinationRow {
    /// The number of the snapshot that counts.
    pub(crate) snapshot: Option<u64>,
    /// The newest generation that the cluster gave.
    pub(crate) generation: u32,
    /// Why the snapshot says nothing about the cluster, if so.
    pub(crate) distrust: Option<ResendReason>,
}

impl Database {
    /// What is remembered of a destination; nothing if it was never fed.
    pub(crate) fn destination(&self, sync: &SyncName, name: &DestinationName) -> Result<DestinationRow, StateError> {
        let query = "SELECT snapshot, generation, distrust FROM destinations WHERE sync = ?1 AND destination = ?2";
        let read = |row: &Row<'_>| {
            let distrust: Option<String> = row.get(2)?;
            Ok(DestinationRow {
                snapshot: row.get::<_, Option<i64>>(0)?.map(i64::cast_unsigned),
                generation: row.get(1)?,
                distrust: distrust.map(|word| distrust_from(&word)),
            })
        };
        let found =
            self.with(|connection| connection.query_row(query, [sync.as_str(), name.as_str()], read).optional());
        found.map(Option::unwrap_or_default)
    }

    /// The destinations of which anything is remembered, also those that a sync does not feed any more.
    pub(crate) fn destinations(&self, sync: &SyncName) -> Result<Vec<String>, StateError> {
        let query = "SELECT destination FROM destinations WHERE sync = ?1 ORDER BY destination";
        self.with(|connection| {
            let mut statement = connection.prepare(query)?;
            statement.query_map([sync.as_str()], |row| row.get(0))?.collect()
        })
    }

    /// Records that the acknowledged state says nothing about the cluster, until a run has sent everything.
    pub(crate) fn distrust(
        &self,
        sync: &SyncName,
        name: &DestinationName,
        reason: ResendReason,
    ) -> Result<(), StateError> {
        let insert = "INSERT INTO destinations (sync, destination, distrust) VALUES (?1, ?2, ?3)
            ON CONFLICT (sync, destination) DO UPDATE SET distrust = ?3";
        let values = params![sync.as_str(), name.as_str(), distrust_word(reason)];
        self.with(|connection| connection.execute(insert, values).map(drop))
    }
}

/// Makes a snapshot the one that counts.
pub(super) fn point(
    connection: &Connection,
    sync: &SyncName,
    name: &DestinationName,
    row: (Option<u64>, Option<ResendReason>),
) -> rusqlite::Result<()> {
    let (snapshot, distrust) = row;
    let insert = "INSERT INTO destinations (sync, destination, snapshot, distrust) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (sync, destination) DO UPDATE SET snapshot = ?3, distrust = ?4";
    let values = params![sync.as_str(), name.as_str(), snapshot.map(signed), distrust.map(distrust_word)];
    connection.execute(insert, values).map(drop)
}

/// Records the generation that the cluster gave.
pub(super) fn opened(
    connection: &Connection,
    sync: &SyncName,
    name: &DestinationName,
    generation: u32,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO destinations (sync, destination, generation) VALUES (?1, ?2, ?3)
        ON CONFLICT (sync, destination) DO UPDATE SET generation = ?3";
    connection.execute(insert, params![sync.as_str(), name.as_str(), generation]).map(drop)
}

fn distrust_word(reason: ResendReason) -> &'static str {
    match reason {
        ResendReason::Overtaken => "overtaken",
        ResendReason::StateDamaged => "state_damaged",
        _ => "destination_new",
    }
}

fn distrust_from(word: &str) -> ResendReason {
    match word {
        "overtaken" => ResendReason::Overtaken,
        "state_damaged" => ResendReason::StateDamaged,
        _ => ResendReason::DestinationNew,
    }
}
