//! The database: syncs, runs and rejected rows, in SQLite, because people want to look into it with their own tools.
//!
//! Written at the seams of a run only (begin, planned, end), never per batch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::{Merged, StateError};
use crate::run::{HistoryEntry, Rejection, ResendReason, RowCounts, RunKind};

const VERSION: i64 = 1;
/// How long to wait for another loader that is writing.
const BUSY: Duration = Duration::from_secs(10);
/// Runs kept of each sync.
const MAX_RUNS: i64 = 1000;

const SCHEMA: &str = "
CREATE TABLE syncs (
    name TEXT PRIMARY KEY,
    -- The number of the snapshot file that holds what the cluster has acknowledged; null before the first run.
    snapshot INTEGER,
    -- The newest generation that the cluster gave to a run of this sync; 0 before the first.
    generation INTEGER NOT NULL DEFAULT 0,
    -- Why the acknowledged state says nothing about the cluster; null if it does.
    distrust TEXT
) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    sync TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    generation INTEGER,
    read INTEGER NOT NULL DEFAULT 0,
    added INTEGER NOT NULL DEFAULT 0,
    changed INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,
    unchanged INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    batches INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX runs_of_sync ON runs (sync);
CREATE TABLE rejected_rows (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key TEXT,
    row INTEGER,
    field TEXT,
    code TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX rejected_rows_of_run ON rejected_rows (run);
PRAGMA user_version = 1;
";

/// The open database.
pub(crate) struct Database {
    path: PathBuf,
    connection: Connection,
}

/// What is remembered of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SyncRow {
    /// The number of the snapshot that counts.
    pub(crate) snapshot: Option<u64>,
    /// The newest generation that the cluster gave.
    pub(crate) generation: u32,
    /// Why the snapshot says nothing about the cluster, if so.
    pub(crate) distrust: Option<ResendReason>,
}

/// How a run ended, for its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing<'a> {
    /// `succeeded`, `partial`, `blocked` or `failed`.
    pub(crate) state: &'static str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    pub(crate) tally: Tally,
    pub(crate) rejections: &'a [Rejection],
    /// The snapshot that counts from now on.
    pub(crate) snapshot: Option<u64>,
    /// Why that says nothing about the cluster, if so.
    pub(crate) distrust: Option<ResendReason>,
    pub(crate) ended_at: &'a str,
}

/// The numbers of a run's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) rows: RowCounts,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
}

impl Database {
    /// Opens the database, making it if need be.
    ///
    /// # Errors
    /// When it cannot be opened or is of a newer format.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Database { path: path.to_path_buf(), source };
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // Files are deleted on the word of this database, so its commits must be durable.
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
        let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match version {
            0 => transaction.execute_batch(SCHEMA).map_err(failed)?,
            VERSION => {}
            found => return Err(StateError::Version { path: path.to_path_buf(), found }),
        }
        transaction.commit().map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), connection })
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> StateError {
        let path = self.path.clone();
        move |source| StateError::Database { path: path.clone(), source }
    }

    /// What is remembered of a sync; nothing if it has never run.
    pub(crate) fn sync(&self, name: &SyncName) -> Result<SyncRow, StateError> {
        let query = "SELECT snapshot, generation, distrust FROM syncs WHERE name = ?1";
        let read = |row: &Row<'_>| {
            let distrust: Option<String> = row.get(2)?;
            Ok(SyncRow {
                snapshot: row.get::<_, Option<i64>>(0)?.map(i64::cast_unsigned),
                generation: row.get(1)?,
                distrust: distrust.map(|word| distrust_from(&word)),
            })
        };
        let found = self.connection.query_row(query, [name.as_str()], read).optional();
        found.map(Option::unwrap_or_default).map_err(self.failed())
    }

    /// The run of a sync that has begun and not ended, if there is one.
    pub(crate) fn running(&self, sync: &SyncName) -> Result<Option<String>, StateError> {
        let query = "SELECT id FROM runs WHERE sync = ?1 AND state = 'running' ORDER BY rowid DESC LIMIT 1";
        self.connection.query_row(query, [sync.as_str()], |row| row.get(0)).optional().map_err(self.failed())
    }

    /// Begins a run.
    pub(crate) fn begin(&self, id: &str, sync: &SyncName, kind: RunKind, now: &str) -> Result<(), StateError> {
        let insert = "INSERT INTO runs (id, sync, kind, state, started_at) VALUES (?1, ?2, ?3, 'running', ?4)";
        self.connection
            .execute("INSERT OR IGNORE INTO syncs (name) VALUES (?1)", [sync.as_str()])
            .map_err(self.failed())?;
        self.connection.execute(insert, params![id, sync.as_str(), kind.as_str(), now]).map_err(self.failed())?;
        let prune = "DELETE FROM runs WHERE sync = ?1 AND state != 'running' AND id NOT IN
            (SELECT id FROM runs WHERE sync = ?1 ORDER BY rowid DESC LIMIT ?2)";
        self.connection.execute(prune, params![sync.as_str(), MAX_RUNS]).map_err(self.failed())?;
        Ok(())
    }

    /// Records a run that failed before it could begin.
    pub(crate) fn failed_to_begin(
        &self,
        id: &str,
        sync: &SyncName,
        kind: RunKind,
        now: &str,
        error: &str,
    ) -> Result<(), StateError> {
        let insert = "INSERT INTO runs (id, sync, kind, state, error, started_at, ended_at)
            VALUES (?1, ?2, ?3, 'failed', ?4, ?5, ?5)";
        let values = params![id, sync.as_str(), kind.as_str(), error, now];
        self.connection.execute(insert, values).map(drop).map_err(self.failed())
    }

    /// Marks a run as cut off although its journal is not part of the state. It stays `running`, so that the next run
    /// finds it again.
    pub(crate) fn cut_off(&self, id: &str) -> Result<(), StateError> {
        let update = "UPDATE runs SET reason = 'interrupted' WHERE id = ?1";
        self.connection.execute(update, [id]).map(drop).map_err(self.failed())
    }

    /// Records the numbers of a run that goes on, so that they are there if it does not end.
    pub(crate) fn planned(&self, id: &str, rows: RowCounts, reason: Option<&str>) -> Result<(), StateError> {
        let update = "UPDATE runs SET reason = :reason, read = :read, added = :added, changed = :changed,
            removed = :removed, unchanged = :unchanged, rejected = :rejected WHERE id = :id";
        let values = named_params! {
            ":id": id, ":reason": reason, ":read": signed(rows.read), ":added": signed(rows.added),
            ":changed": signed(rows.changed), ":removed": signed(rows.removed),
            ":unchanged": signed(rows.unchanged), ":rejected": signed(rows.rejected),
        };
        self.connection.execute(update, values).map(drop).map_err(self.failed())
    }

    /// Records the generation that the cluster gave to a run.
    pub(crate) fn opened(&self, id: &str, sync: &SyncName, generation: u32) -> Result<(), StateError> {
        let of_run = "UPDATE runs SET generation = ?2 WHERE id = ?1";
        let of_sync = "UPDATE syncs SET generation = ?2 WHERE name = ?1";
        self.connection.execute(of_run, params![id, generation]).map_err(self.failed())?;
        self.connection.execute(of_sync, params![sync.as_str(), generation]).map(drop).map_err(self.failed())
    }

    /// Records that the acknowledged state says nothing about the cluster, until a run has sent everything.
    pub(crate) fn distrust(&self, sync: &SyncName, reason: ResendReason) -> Result<(), StateError> {
        let insert = "INSERT INTO syncs (name, distrust) VALUES (?1, ?2)
            ON CONFLICT (name) DO UPDATE SET distrust = ?2";
        let values = params![sync.as_str(), distrust_word(reason)];
        self.connection.execute(insert, values).map(drop).map_err(self.failed())
    }

    /// Ends a run and points to the state that counts from now on, in one transaction.
    pub(crate) fn close(&self, id: &str, sync: &SyncName, closing: &Closing<'_>) -> Result<(), StateError> {
        let failed = self.failed();
        let transaction = self.connection.unchecked_transaction().map_err(&failed)?;
        let update = "UPDATE runs SET state = :state, reason = :reason, error = :error, ended_at = :ended_at,
            read = :read, added = :added, changed = :changed, removed = :removed, unchanged = :unchanged,
            rejected = :rejected, sent = :sent, acknowledged = :acknowledged, batches = :batches, bytes = :bytes
            WHERE id = :id";
        let Tally { rows, sent, acknowledged, batches, bytes } = closing.tally;
        let values = named_params! {
            ":id": id, ":state": closing.state, ":reason": closing.reason, ":error": closing.error,
            ":ended_at": closing.ended_at, ":read": signed(rows.read), ":added": signed(rows.added),
            ":changed": signed(rows.changed), ":removed": signed(rows.removed),
            ":unchanged": signed(rows.unchanged), ":rejected": signed(rows.rejected), ":sent": signed(sent),
            ":acknowledged": signed(acknowledged), ":batches": signed(batches), ":bytes": signed(bytes),
        };
        transaction.execute(update, values).map_err(&failed)?;
        let distrust = closing.distrust.map(distrust_word);
        let point = "UPDATE syncs SET snapshot = ?2, distrust = ?3 WHERE name = ?1";
        let snapshot = closing.snapshot.map(signed);
        transaction.execute(point, params![sync.as_str(), snapshot, distrust]).map_err(&failed)?;
        {
            let insert =
                "INSERT INTO rejected_rows (run, key, row, field, code, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let mut insert = transaction.prepare(insert).map_err(&failed)?;
            for rejection in closing.rejections {
                let Rejection { key, row, field, code, message } = rejection;
                insert.execute(params![id, key, row.map(signed), field, code, message]).map_err(&failed)?;
            }
        }
        transaction.commit().map_err(&failed)
    }

    /// Ends a run that was cut off, once its journal is part of the state.
    pub(crate) fn close_interrupted(&self, id: &str, sync: &SyncName, merged: Merged) -> Result<(), StateError> {
        let failed = self.failed();
        let transaction = self.connection.unchecked_transaction().map_err(&failed)?;
        let run =
            "UPDATE runs SET state = 'partial', reason = 'interrupted', sent = ?2, acknowledged = ?3 WHERE id = ?1";
        transaction.execute(run, params![id, signed(merged.sent), signed(merged.acknowledged)]).map_err(&failed)?;
        // Once a run has begun to send, the snapshot itself marks every row of which nothing is known.
        let point =
            "UPDATE syncs SET snapshot = ?2, distrust = CASE WHEN ?3 THEN NULL ELSE distrust END WHERE name = ?1";
        let values = params![sync.as_str(), merged.snapshot.map(signed), merged.settled];
        transaction.execute(point, values).map_err(&failed)?;
        transaction.commit().map_err(&failed)
    }

    /// The newest runs first.
    pub(crate) fn history(&self, sync: Option<&SyncName>, limit: usize) -> Result<Vec<HistoryEntry>, StateError> {
        let query = "SELECT id, sync, kind,
            CASE WHEN state = 'running' AND reason = 'interrupted' THEN 'partial' ELSE state END,
            reason, error, started_at, ended_at, read, added, changed, removed,
            unchanged, rejected, sent, acknowledged, batches, bytes FROM runs
            WHERE ?1 IS NULL OR sync = ?1 ORDER BY rowid DESC LIMIT ?2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare(query).map_err(self.failed())?;
        let rows = statement.query_map(params![sync.map(SyncName::as_str), limit], history_entry);
        rows.and_then(Iterator::collect).map_err(self.failed())
    }

    /// The rejected rows that were kept of a run; `None` if there is no such run.
    pub(crate) fn rejected(&self, run: &str) -> Result<Option<Vec<Rejection>>, StateError> {
        let known = "SELECT count(*) FROM runs WHERE id = ?1";
        let known: i64 = self.connection.query_row(known, [run], |row| row.get(0)).map_err(self.failed())?;
        if known == 0 {
            return Ok(None);
        }
        let query = "SELECT key, row, field, code, message FROM rejected_rows WHERE run = ?1 ORDER BY rowid";
        let mut statement = self.connection.prepare(query).map_err(self.failed())?;
        let rows = statement.query_map([run], |row| {
            Ok(Rejection {
                key: row.get(0)?,
                row: row.get::<_, Option<i64>>(1)?.map(i64::cast_unsigned),
                field: row.get(2)?,
                code: row.get(3)?,
                message: row.get(4)?,
            })
        });
        rows.and_then(Iterator::collect).map(Some).map_err(self.failed())
    }
}

fn history_entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(HistoryEntry {
        id: row.get(0)?,
        sync: row.get(1)?,
        kind: row.get(2)?,
        state: row.get(3)?,
        reason: row.get(4)?,
        error: row.get(5)?,
        started_at: row.get(6)?,
        ended_at: row.get(7)?,
        rows: RowCounts {
            read: count(8)?,
            added: count(9)?,
            changed: count(10)?,
            removed: count(11)?,
            unchanged: count(12)?,
            rejected: count(13)?,
        },
        sent: count(14)?,
        acknowledged: count(15)?,
        batches: count(16)?,
        bytes: count(17)?,
    })
}

/// SQLite's integers are signed; no count comes near the top half.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
