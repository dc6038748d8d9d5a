//! The tables of runs and of their deliveries.
//!
//! A delivery is closed in the transaction that makes its new state count, a run when all its deliveries are. So of a
//! run that was cut off, the deliveries that have not ended say `running`, and each is taken up when its destination
//! is next fed.

use jiff::Timestamp;
use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::bases::{self, Base};
use super::database::{Database, signed};
use super::{Merged, StateError, destinations, holds, rejected};
use crate::project::DestinationName;
use crate::run::{DeliveryEntry, Findings, HistoryEntry, Rejection, ResendReason, RowCounts, RunKind, Trigger};

/// Runs kept of each sync.
const MAX_RUNS: i64 = 1000;
/// Why a run ended that its process did not end.
pub(super) const INTERRUPTED: &str = "interrupted";

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    sync TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- Who asked for it: cli, schedule, api, after, approve, retry.
    cause TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    -- Rows that the query returned.
    read INTEGER NOT NULL DEFAULT 0,
    -- When somebody asked for it to be cancelled.
    cancel_asked_at TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS runs_of_sync ON runs (sync);
CREATE TABLE IF NOT EXISTS deliveries (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    generation INTEGER,
    added INTEGER NOT NULL DEFAULT 0,
    changed INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,
    unchanged INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    swept INTEGER NOT NULL DEFAULT 0,
    batches INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, destination)
) STRICT;
CREATE INDEX IF NOT EXISTS deliveries_under_way ON deliveries (destination) WHERE state = 'running';
";

/// A run, as it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning<'a> {
    pub(crate) id: &'a str,
    pub(crate) sync: &'a SyncName,
    pub(crate) kind: RunKind,
    pub(crate) trigger: Trigger,
    pub(crate) at: &'a str,
}

/// How a run ended, for its row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending<'a> {
    /// `succeeded`, `partial`, `blocked`, `cancelled` or `failed`.
    pub(crate) state: &'static str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    pub(crate) read: u64,
    pub(crate) at: &'a str,
}

/// How a delivery ended, for its row.
#[derive(Debug, Clone)]
pub(crate) struct Closing<'a> {
    /// As of [`Ending`].
    pub(crate) state: &'static str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    pub(crate) tally: Tally,
    pub(crate) rejections: &'a [Rejection],
    /// The snapshot that counts from now on.
    pub(crate) snapshot: Option<u64>,
    /// Why that says nothing about the cluster, if so.
    pub(crate) distrust: Option<ResendReason>,
    /// What a guard stopped, and when: it is held from now on.
    pub(crate) held: Option<(Findings, &'a str)>,
    /// What becomes of the base in the warehouse.
    pub(crate) base: NextBase<'a>,
}

/// What becomes of a destination's base in the warehouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextBase<'a> {
    /// It stays, if there is one.
    Same,
    /// The snapshot is all that counts.
    None,
    /// This one counts.
    Some(&'a Base),
}

impl NextBase<'_> {
    fn point(self, connection: &Connection, delivery: DeliveryId<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Same => Ok(()),
            Self::None => bases::point(connection, delivery.sync, delivery.destination, None),
            Self::Some(base) => bases::point(connection, delivery.sync, delivery.destination, Some(base)),
        }
    }
}

/// The numbers of a delivery's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) rows: RowCounts,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) swept: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
}

/// Which delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveryId<'a> {
    pub(crate) run: &'a str,
    pub(crate) sync: &'a SyncName,
    pub(crate) destination: &'a DestinationName,
}

impl Database {
    /// Begins a run to these destinations.
    pub(crate) fn begin(&self, run: Beginning<'_>, destinations: &[DestinationName]) -> Result<(), StateError> {
        self.transact(|transaction| {
            let insert =
                "INSERT INTO runs (id, sync, kind, cause, state, started_at) VALUES (?1, ?2, ?3, ?4, 'running', ?5)";
            let Beginning { id, sync, kind, trigger, at } = run;
            transaction.execute(insert, params![id, sync.as_str(), kind.as_str(), trigger.as_str(), at])?;
            let delivery = "INSERT INTO deliveries (run, destination, state) VALUES (?1, ?2, 'running')";
            for destination in destinations {
                transaction.execute(delivery, params![id, destination.as_str()])?;
            }
            let prune = "DELETE FROM runs WHERE sync = ?1
                AND id NOT IN (SELECT id FROM runs WHERE sync = ?1 ORDER BY rowid DESC LIMIT ?2)
                AND NOT EXISTS (SELECT 1 FROM deliveries WHERE run = id AND deliveries.state = 'running')";
            transaction.execute(prune, params![sync.as_str(), MAX_RUNS]).map(drop)
        })
    }

    /// Records a run that failed before it could begin.
    pub(crate) fn failed_to_begin(&self, run: Beginning<'_>, error: &str) -> Result<(), StateError> {
        let insert = "INSERT INTO runs (id, sync, kind, cause, state, error, started_at, ended_at)
            VALUES (?1, ?2, ?3, ?4, 'failed', ?5, ?6, ?6)";
        let Beginning { id, sync, kind, trigger, at } = run;
        let values = params![id, sync.as_str(), kind.as_str(), trigger.as_str(), error, at];
        self.with(|connection| connection.execute(insert, values).map(drop))
    }

    /// Ends every run of a sync that says it is under way. Only for whoever holds the sync and has begun no run.
    pub(crate) fn cut_off(&self, sync: &SyncName) -> Result<(), StateError> {
        let update = "UPDATE runs SET state = 'partial', reason = ?2 WHERE sync = ?1 AND state = 'running'";
        self.with(|connection| connection.execute(update, params![sync.as_str(), INTERRUPTED]).map(drop))
    }

    /// The run whose delivery to a destination has begun and not ended, if there is one.
    pub(crate) fn unfinished(
        &self,
        sync: &SyncName,
        destination: &DestinationName,
    ) -> Result<Option<String>, StateError> {
        let query = "SELECT run FROM deliveries JOIN runs ON runs.id = run
            WHERE sync = ?1 AND destination = ?2 AND deliveries.state = 'running' ORDER BY runs.rowid DESC LIMIT 1";
        let values = params![sync.as_str(), destination.as_str()];
        self.with(|connection| connection.query_row(query, values, |row| row.get(0)).optional())
    }

    /// Records the numbers of a delivery that goes on, so that they are there if it does not end.
    pub(crate) fn planned(
        &self,
        delivery: DeliveryId<'_>,
        rows: RowCounts,
        reason: Option<&str>,
    ) -> Result<(), StateError> {
        let update = "UPDATE deliveries SET reason = :reason, added = :added, changed = :changed, removed = :removed,
            unchanged = :unchanged, rejected = :rejected WHERE run = :run AND destination = :destination";
        let values = named_params! {
            ":run": delivery.run, ":destination": delivery.destination.as_str(), ":reason": reason,
            ":added": signed(rows.added), ":changed": signed(rows.changed), ":removed": signed(rows.removed),
            ":unchanged": signed(rows.unchanged), ":rejected": signed(rows.rejected),
        };
        self.transact(|transaction| {
            transaction.execute(update, values)?;
            let read = "UPDATE runs SET read = ?2 WHERE id = ?1";
            transaction.execute(read, params![delivery.run, signed(rows.read)]).map(drop)
        })
    }

    /// Records the generation that the cluster gave to a run. What was held of the destination is done, or overtaken.
    pub(crate) fn opened(&self, delivery: DeliveryId<'_>, generation: u32) -> Result<(), StateError> {
        let update = "UPDATE deliveries SET generation = ?3 WHERE run = ?1 AND destination = ?2";
        self.transact(|transaction| {
            transaction.execute(update, params![delivery.run, delivery.destination.as_str(), generation])?;
            destinations::opened(transaction, delivery.sync, delivery.destination, generation)?;
            holds::drop_of(transaction, delivery)
        })
    }

    /// Ends a delivery and points to the state that counts from now on, in one transaction.
    pub(crate) fn close(&self, delivery: DeliveryId<'_>, closing: &Closing<'_>) -> Result<(), StateError> {
        let update = "UPDATE deliveries SET state = :state, reason = :reason, error = :error, added = :added,
            changed = :changed, removed = :removed, unchanged = :unchanged, rejected = :rejected, sent = :sent,
            acknowledged = :acknowledged, swept = :swept, batches = :batches, bytes = :bytes
            WHERE run = :run AND destination = :destination";
        let Tally { rows, sent, acknowledged, swept, batches, bytes } = closing.tally;
        let values = named_params! {
            ":run": delivery.run, ":destination": delivery.destination.as_str(), ":state": closing.state,
            ":reason": closing.reason, ":error": closing.error, ":added": signed(rows.added),
            ":changed": signed(rows.changed), ":removed": signed(rows.removed),
            ":unchanged": signed(rows.unchanged), ":rejected": signed(rows.rejected), ":sent": signed(sent),
            ":acknowledged": signed(acknowledged), ":swept": signed(swept), ":batches": signed(batches),
            ":bytes": signed(bytes),
        };
        self.transact(|transaction| {
            transaction.execute(update, values)?;
            let row = (closing.snapshot, closing.distrust);
            destinations::point(transaction, delivery.sync, delivery.destination, row)?;
            if let Some((found, now)) = closing.held {
                holds::put(transaction, delivery, found, closing.error.unwrap_or_default(), now)?;
            }
            closing.base.point(transaction, delivery)?;
            rejected::insert(transaction, delivery.run, delivery.destination, closing.rejections)
        })
    }

    /// Ends a delivery whose destination's state could not be taken up, and leaves that state as it is.
    pub(crate) fn give_up(&self, delivery: DeliveryId<'_>, error: &str) -> Result<(), StateError> {
        let update = "UPDATE deliveries SET state = 'failed', error = ?3 WHERE run = ?1 AND destination = ?2";
        let values = params![delivery.run, delivery.destination.as_str(), error];
        self.with(|connection| connection.execute(update, values).map(drop))
    }

    /// Ends a delivery that was cut off, once its journal is part of the state.
    pub(crate) fn close_interrupted(
        &self,
        delivery: DeliveryId<'_>,
        merged: Merged,
        distrust: Option<ResendReason>,
    ) -> Result<(), StateError> {
        let update = "UPDATE deliveries SET state = 'partial', reason = ?3, sent = ?4, acknowledged = ?5
            WHERE run = ?1 AND destination = ?2";
        let values = params![
            delivery.run,
            delivery.destination.as_str(),
            INTERRUPTED,
            signed(merged.sent),
            signed(merged.acknowledged)
        ];
        self.transact(|transaction| {
            transaction.execute(update, values)?;
            if merged.whole {
                NextBase::None.point(transaction, delivery)?;
            }
            destinations::point(transaction, delivery.sync, delivery.destination, (merged.snapshot, distrust))
        })
    }

    /// Asks a run to stop, and returns its sync; nothing, if it is not under way.
    pub(crate) fn ask_cancel(&self, run: &str, now: &str) -> Result<Option<String>, StateError> {
        let update = "UPDATE runs SET cancel_asked_at = coalesce(cancel_asked_at, ?2)
            WHERE id = ?1 AND state = 'running' RETURNING sync";
        self.with(|connection| connection.query_row(update, [run, now], |row| row.get(0)).optional())
    }

    /// Forgets what a destination has acknowledged of a sync, and ends what is still to be taken up of it.
    pub(crate) fn forget_destination(&self, sync: &SyncName, destination: &DestinationName) -> Result<(), StateError> {
        let values = params![sync.as_str(), destination.as_str()];
        self.transact(|transaction| {
            let update = "UPDATE deliveries SET state = 'partial', reason = 'interrupted' WHERE destination = ?2
                AND state = 'running' AND run IN (SELECT id FROM runs WHERE sync = ?1)";
            transaction.execute(update, values)?;
            transaction.execute("DELETE FROM holds WHERE sync = ?1 AND destination = ?2", values)?;
            transaction.execute("DELETE FROM cursors WHERE sync = ?1 AND destination = ?2", values)?;
            bases::point(transaction, sync, destination, None)?;
            transaction.execute("DELETE FROM destinations WHERE sync = ?1 AND destination = ?2", values).map(drop)
        })
    }

    /// Whether somebody asked a run to stop.
    pub(crate) fn is_cancel_asked(&self, run: &str) -> Result<bool, StateError> {
        let query = "SELECT cancel_asked_at IS NOT NULL FROM runs WHERE id = ?1";
        self.with(|connection| connection.query_row(query, [run], |row| row.get(0)).optional())
            .map(Option::unwrap_or_default)
    }

    /// Ends a run all of whose deliveries have ended.
    pub(crate) fn end(&self, run: &str, ending: Ending<'_>) -> Result<(), StateError> {
        let update = "UPDATE runs SET state = ?2, reason = ?3, error = ?4, read = ?5, ended_at = ?6 WHERE id = ?1";
        let Ending { state, reason, error, read, at } = ending;
        let values = params![run, state, reason, error, signed(read), at];
        self.with(|connection| connection.execute(update, values).map(drop))
    }

    /// A run by its id.
    pub(crate) fn run(&self, id: &str) -> Result<Option<HistoryEntry>, StateError> {
        let query = "SELECT id, sync, kind, cause, state, reason, error, started_at, ended_at, read FROM runs
            WHERE id = ?1";
        self.with(|connection| {
            let entry = connection.query_row(query, [id], run_entry).optional()?;
            entry.map(|entry| with_deliveries(connection, entry)).transpose()
        })
    }

    /// When a run last ended well at a destination.
    pub(crate) fn last_success_at(
        &self,
        sync: &SyncName,
        destination: &DestinationName,
    ) -> Result<Option<Timestamp>, StateError> {
        let query = "SELECT ended_at FROM deliveries JOIN runs ON runs.id = run
            WHERE sync = ?1 AND destination = ?2 AND ended_at IS NOT NULL
            AND deliveries.state IN ('succeeded', 'partial') AND deliveries.reason IS NOT ?3
            ORDER BY runs.rowid DESC LIMIT 1";
        let values = params![sync.as_str(), destination.as_str(), INTERRUPTED];
        let at: Option<String> =
            self.with(|connection| connection.query_row(query, values, |row| row.get(0)).optional())?;
        Ok(at.and_then(|at| at.parse().ok()))
    }

    /// The newest runs first.
    pub(crate) fn history(&self, sync: Option<&SyncName>, limit: usize) -> Result<Vec<HistoryEntry>, StateError> {
        let query = "SELECT id, sync, kind, cause, state, reason, error, started_at, ended_at, read FROM runs
            WHERE ?1 IS NULL OR sync = ?1 ORDER BY rowid DESC LIMIT ?2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.with(|connection| {
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map(params![sync.map(SyncName::as_str), limit], run_entry)?;
            rows.map(|entry| with_deliveries(connection, entry?)).collect()
        })
    }
}

fn run_entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    Ok(HistoryEntry {
        id: row.get(0)?,
        sync: row.get(1)?,
        kind: row.get(2)?,
        trigger: row.get(3)?,
        state: row.get(4)?,
        reason: row.get(5)?,
        error: row.get(6)?,
        started_at: row.get(7)?,
        ended_at: row.get(8)?,
        rows: RowCounts { read: row.get::<_, i64>(9)?.cast_unsigned(), ..RowCounts::default() },
        ..HistoryEntry::default()
    })
}

fn with_deliveries(connection: &Connection, mut run: HistoryEntry) -> rusqlite::Result<HistoryEntry> {
    let query = "SELECT destination, state, reason, error, added, changed, removed, unchanged, rejected, sent,
        acknowledged, swept, batches, bytes FROM deliveries WHERE run = ?1 ORDER BY destination";
    let mut statement = connection.prepare_cached(query)?;
    let read = run.rows.read;
    let deliveries = statement.query_map([&run.id], |row| delivery_entry(row, read))?;
    for delivery in deliveries {
        let delivery = delivery?;
        run.rows.add(&delivery.rows);
        run.sent += delivery.sent;
        run.acknowledged += delivery.acknowledged;
        run.swept += delivery.swept;
        run.batches += delivery.batches;
        run.bytes += delivery.bytes;
        run.deliveries.push(delivery);
    }
    Ok(run)
}

fn delivery_entry(row: &Row<'_>, read: u64) -> rusqlite::Result<DeliveryEntry> {
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(DeliveryEntry {
        destination: row.get(0)?,
        state: row.get(1)?,
        reason: row.get(2)?,
        error: row.get(3)?,
        rows: RowCounts {
            read,
            added: count(4)?,
            changed: count(5)?,
            removed: count(6)?,
            unchanged: count(7)?,
            rejected: count(8)?,
        },
        sent: count(9)?,
        acknowledged: count(10)?,
        swept: count(11)?,
        batches: count(12)?,
        bytes: count(13)?,
    })
}
