//! The tables of alerts: how each alert is, what is remembered of the runs that its rules judge, and the notices that
//! wait to be sent.
//!
//! A change of an alert and the notices that tell of it are written in one transaction, so a notice is neither lost nor
//! told twice of one change. A notice is deleted when its channel has taken it: if this process dies in between, it is
//! sent again, under the same id.

use std::time::Duration;

use jiff::Timestamp;
use larder_types::names::SyncName;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::StateError;
use super::database::{Database, signed};
use crate::observe::alerts::{Alert, Memory, Notice, Rule};
use crate::project::alerts::Level;

/// Notices that may wait. The oldest are dropped for newer ones: what is wrong now matters more.
pub(crate) const MAX_WAITING: u64 = 1000;
/// For so long a notice belongs to the process that has begun to send it; longer than any attempt takes.
const CLAIM: Duration = Duration::from_secs(120);

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS alerts (
    sync TEXT NOT NULL,
    -- Empty for the sync as a whole.
    destination TEXT NOT NULL,
    rule TEXT NOT NULL,
    -- warning, critical; null while all is well.
    level TEXT,
    peak TEXT,
    since TEXT NOT NULL,
    calm INTEGER NOT NULL,
    -- What was found last.
    what TEXT NOT NULL,
    PRIMARY KEY (sync, destination, rule)
) STRICT;
CREATE TABLE IF NOT EXISTS alert_memories (
    sync TEXT NOT NULL,
    -- Empty for the sync as a whole.
    destination TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    succeeded_at TEXT,
    failures INTEGER NOT NULL,
    -- Row counts of the last runs that succeeded, as JSON.
    rows TEXT NOT NULL,
    PRIMARY KEY (sync, destination)
) STRICT;
CREATE TABLE IF NOT EXISTS notices (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    -- The notice as JSON, its text included.
    notice TEXT NOT NULL,
    -- Microseconds since 1970.
    created_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    -- Why the last attempt failed.
    error TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS notices_of_channel ON notices (channel, number);
";

/// An alert that is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Firing {
    pub(crate) sync: String,
    /// Empty for the sync as a whole.
    pub(crate) destination: String,
    pub(crate) rule: Rule,
    pub(crate) level: Level,
    pub(crate) since: Timestamp,
    pub(crate) what: String,
}

/// A notice that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) number: i64,
    pub(crate) channel: String,
    pub(crate) notice: Notice,
    pub(crate) created_at: Timestamp,
    /// Attempts that were begun.
    pub(crate) attempts: u32,
    /// Why the last one failed.
    pub(crate) error: Option<String>,
}

/// The tables inside of one transaction.
pub(crate) struct AlertTables<'a>(&'a Transaction<'a>);

impl AlertTables<'_> {
    /// What is remembered of a sync, or of one of its destinations.
    pub(crate) fn memory(&self, sync: &SyncName, destination: &str) -> rusqlite::Result<Option<Memory>> {
        let query = "SELECT seen_at, succeeded_at, failures, rows FROM alert_memories
            WHERE sync = ?1 AND destination = ?2";
        let read = |row: &Row<'_>| {
            let rows: String = row.get(3)?;
            let rows = serde_json::from_str(&rows).map_err(|error| unreadable(3, error))?;
            let succeeded_at = row.get::<_, Option<String>>(1)?.map(|_| time(row, 1)).transpose()?;
            Ok(Memory { seen_at: time(row, 0)?, succeeded_at, failures: row.get::<_, i64>(2)?.cast_unsigned(), rows })
        };
        self.0.query_row(query, params![sync.as_str(), destination], read).optional()
    }

    /// Remembers.
    pub(crate) fn remember(&self, sync: &SyncName, destination: &str, memory: &Memory) -> rusqlite::Result<()> {
        let insert = "INSERT OR REPLACE INTO alert_memories (sync, destination, seen_at, succeeded_at, failures, rows)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let Memory { seen_at, succeeded_at, failures, rows } = memory;
        let rows =
            serde_json::to_string(rows).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let succeeded_at = succeeded_at.map(|at| at.to_string());
        let values = params![sync.as_str(), destination, seen_at.to_string(), succeeded_at, signed(*failures), rows];
        self.0.execute(insert, values).map(drop)
    }

    /// How an alert is, if anything was ever found.
    pub(crate) fn alert(&self, sync: &SyncName, destination: &str, rule: Rule) -> rusqlite::Result<Option<Alert>> {
        let query = "SELECT level, peak, since, calm FROM alerts WHERE sync = ?1 AND destination = ?2 AND rule = ?3";
        let read = |row: &Row<'_>| {
            Ok(Alert {
                level: level(row, 0)?,
                peak: level(row, 1)?,
                since: time(row, 2)?,
                calm: row.get::<_, i64>(3)?.cast_unsigned(),
            })
        };
        self.0.query_row(query, params![sync.as_str(), destination, rule.as_str()], read).optional()
    }

    /// Writes how an alert is, and what was found last.
    pub(crate) fn set_alert(
        &self,
        sync: &SyncName,
        destination: &str,
        rule: Rule,
        alert: &Alert,
        what: &str,
    ) -> rusqlite::Result<()> {
        let insert = "INSERT OR REPLACE INTO alerts (sync, destination, rule, level, peak, since, calm, what)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let Alert { level, peak, since, calm } = alert;
        let values = params![
            sync.as_str(),
            destination,
            rule.as_str(),
            level.map(Level::as_str),
            peak.map(Level::as_str),
            since.to_string(),
            signed(*calm),
            what
        ];
        self.0.execute(insert, values).map(drop)
    }

    /// Forgets the alerts that are not among those wanted: of syncs that are gone, of rules that are off. Nobody is
    /// told, as nothing recovered.
    pub(crate) fn keep_alerts(
        &self,
        mut is_wanted: impl FnMut(&str, &str, Option<Rule>) -> bool,
    ) -> rusqlite::Result<()> {
        let mut statement = self.0.prepare("SELECT rowid, sync, destination, rule FROM alerts")?;
        let mut gone: Vec<i64> = Vec::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (sync, destination, rule): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
            if !is_wanted(&sync, &destination, Rule::from_name(&rule)) {
                gone.push(row.get(0)?);
            }
        }
        for row in gone {
            self.0.execute("DELETE FROM alerts WHERE rowid = ?1", [row])?;
        }
        Ok(())
    }

    /// Puts a notice into the queue of a channel. Returns how many older ones had to go for it.
    pub(crate) fn queue(&self, channel: &str, notice: &Notice, now: Timestamp) -> rusqlite::Result<usize> {
        let text =
            serde_json::to_string(notice).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let insert = "INSERT INTO notices (channel, notice, created_at, due_at) VALUES (?1, ?2, ?3, ?3)";
        self.0.execute(insert, params![channel, text, now.as_microsecond()])?;
        let shed = "DELETE FROM notices WHERE number IN
            (SELECT number FROM notices ORDER BY number DESC LIMIT -1 OFFSET ?1)";
        self.0.execute(shed, [signed(MAX_WAITING)])
    }
}

impl Database {
    /// Reads and writes alerts in one transaction.
    pub(crate) fn alerts<T>(
        &self,
        action: impl FnOnce(&AlertTables<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        self.transact(|transaction| action(&AlertTables(transaction)))
    }

    /// The alerts that are not well, by sync, destination and rule.
    pub(crate) fn firing(&self) -> Result<Vec<Firing>, StateError> {
        let query = "SELECT sync, destination, rule, level, since, what FROM alerts WHERE level IS NOT NULL
            ORDER BY sync, destination, rule";
        self.with(|connection| {
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map([], |row| {
                let Some((rule, level)) = Rule::from_name(&row.get::<_, String>(2)?).zip(level(row, 3)?) else {
                    return Ok(None);
                };
                let (sync, destination, what) = (row.get(0)?, row.get(1)?, row.get(5)?);
                Ok(Some(Firing { sync, destination, rule, level, since: time(row, 4)?, what }))
            })?;
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// The notices that wait, the oldest first.
    pub(crate) fn waiting(&self) -> Result<Vec<Waiting>, StateError> {
        let query = "SELECT number, channel, notice, created_at, attempts, error FROM notices ORDER BY number";
        self.with(|connection| connection.prepare(query)?.query_map([], waiting)?.collect())
    }

    /// How many notices wait.
    pub(crate) fn waiting_notices(&self) -> Result<u64, StateError> {
        self.with(|connection| connection.query_row("SELECT count(*) FROM notices", [], |row| row.get::<_, i64>(0)))
            .map(i64::cast_unsigned)
    }

    /// When the first notice is due, if one waits.
    pub(crate) fn next_due(&self) -> Result<Option<Timestamp>, StateError> {
        // Notices of one channel go out in their order, so only the first of each counts.
        let query = "SELECT min(due_at) FROM notices
            WHERE number IN (SELECT min(number) FROM notices GROUP BY channel)";
        let micros: Option<i64> = self.with(|connection| connection.query_row(query, [], |row| row.get(0)))?;
        Ok(micros.map(|micros| Timestamp::from_microsecond(micros).unwrap_or_default()))
    }

    /// Takes a notice that is due, and keeps it from other processes for a while. Of each channel only its oldest is
    /// given out, so that nobody hears of a recovery before the alert.
    pub(crate) fn claim_due(&self, now: Timestamp) -> Result<Option<Waiting>, StateError> {
        let query = "SELECT number, channel, notice, created_at, attempts, error FROM notices
            WHERE due_at <= ?1 AND number IN (SELECT min(number) FROM notices GROUP BY channel)
            ORDER BY number LIMIT 1";
        let claim = "UPDATE notices SET attempts = attempts + 1, due_at = ?2 WHERE number = ?1";
        self.transact(|transaction| {
            let found = transaction.query_row(query, [now.as_microsecond()], waiting).optional()?;
            if let Some(found) = &found {
                transaction.execute(claim, params![found.number, after(now, CLAIM)])?;
            }
            Ok(found)
        })
    }

    /// Puts a notice off whose attempt failed.
    pub(crate) fn put_off(&self, number: i64, due_at: Timestamp, error: &str) -> Result<(), StateError> {
        let update = "UPDATE notices SET due_at = ?2, error = ?3 WHERE number = ?1";
        self.with(|connection| connection.execute(update, params![number, due_at.as_microsecond(), error]).map(drop))
    }

    /// Deletes a notice that was taken, or that nobody will take.
    pub(crate) fn settle(&self, number: i64) -> Result<(), StateError> {
        self.with(|connection| connection.execute("DELETE FROM notices WHERE number = ?1", [number]).map(drop))
    }
}

fn waiting(row: &Row<'_>) -> rusqlite::Result<Waiting> {
    let notice: String = row.get(2)?;
    Ok(Waiting {
        number: row.get(0)?,
        channel: row.get(1)?,
        notice: serde_json::from_str(&notice).map_err(|error| unreadable(2, error))?,
        created_at: Timestamp::from_microsecond(row.get(3)?).unwrap_or_default(),
        attempts: row.get(4)?,
        error: row.get(5)?,
    })
}

fn after(now: Timestamp, wait: Duration) -> i64 {
    now.as_microsecond().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get::<_, String>(column)?.parse().map_err(|error| unreadable(column, error))
}

fn level(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Level>> {
    let word: Option<String> = row.get(column)?;
    Ok(match word.as_deref() {
        Some("warning") => Some(Level::Warning),
        Some("critical") => Some(Level::Critical),
        _ => None,
    })
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
