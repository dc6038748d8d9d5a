//! The tables of schedules: what [`crate::schedule`] remembers between decisions.
//!
//! A decision is one transaction that reads the whole book, changes it and writes what changed, with the leases of the
//! runs that begin. So loaders that share the database decide one after the other, each on what the others did. That a
//! sync has one run under way and one that waits is an index of the database too.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::database::Database;
use super::leases::{self, Holder};
use super::{StateError, runs};
use crate::run::Trigger;
use crate::schedule::book::{Book, Ending, Entry, LeaseSeen, Past, Record, Request, Started, Ticket};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS schedules (
    sync TEXT PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0,
    -- What next_at was computed from.
    definition TEXT,
    -- The nominal time of the next fire. Times are microseconds since 1970.
    next_at INTEGER,
    -- Runs of other syncs that ended up to here are used up.
    used_at INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS tickets (
    -- The id that the run has or will have.
    run TEXT PRIMARY KEY,
    sync TEXT NOT NULL,
    -- The lease under which it was begun; null while it waits.
    fence INTEGER,
    cause TEXT NOT NULL,
    full INTEGER NOT NULL,
    reset INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    vanished INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_ticket_waits ON tickets (sync) WHERE fence IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS one_ticket_is_begun ON tickets (sync) WHERE fence IS NOT NULL;
";

impl Database {
    /// Opens the book with a page for each of the syncs, lets `action` change it, and writes what it changed: all of it
    /// or nothing. Leases that `action` took become the holder's.
    pub(crate) fn with_book<'a, T>(
        &self,
        syncs: impl IntoIterator<Item = &'a SyncName>,
        holder: &Holder,
        now: Timestamp,
        action: impl FnOnce(&mut Book) -> T,
    ) -> Result<T, StateError> {
        self.transact(|transaction| {
            let before = read(transaction, syncs, Some((holder, now)))?;
            let mut book = before.clone();
            let result = action(&mut book);
            for (sync, entry) in &book.0 {
                let was = before.0.get(sync).cloned().unwrap_or_default();
                if was != *entry {
                    write(transaction, sync, &was, entry)?;
                    if entry.lease.fence != was.lease.fence {
                        leases::take(transaction, sync, holder, entry.lease.fence, now)?;
                    }
                }
            }
            Ok(result)
        })
    }

    /// The book as it stands, with a page for each of the syncs: without looking who lives.
    pub(crate) fn book<'a>(&self, syncs: impl IntoIterator<Item = &'a SyncName>) -> Result<Book, StateError> {
        self.with(|connection| read(connection, syncs, None))
    }

    /// Pauses a sync's schedule or lets it go on. False if it was so already.
    pub(crate) fn set_paused(&self, sync: &SyncName, is_paused: bool) -> Result<bool, StateError> {
        let insert = "INSERT INTO schedules (sync, paused) VALUES (?1, ?2)
            ON CONFLICT (sync) DO UPDATE SET paused = ?2 WHERE paused != ?2";
        self.transact(|transaction| {
            let query = "SELECT paused FROM schedules WHERE sync = ?1";
            let was = transaction.query_row(query, [sync.as_str()], |row| row.get(0)).optional()?.unwrap_or(false);
            transaction.execute(insert, params![sync.as_str(), is_paused])?;
            Ok(was != is_paused)
        })
    }

    /// A number that changes whenever another process has changed the database.
    pub(crate) fn data_version(&self) -> Result<i64, StateError> {
        self.with(|connection| connection.query_row("PRAGMA data_version", [], |row| row.get(0)))
    }
}

/// Reads everything. Without a holder, leases are not looked at.
fn read<'a>(
    connection: &Connection,
    syncs: impl IntoIterator<Item = &'a SyncName>,
    seen_by: Option<(&Holder, Timestamp)>,
) -> rusqlite::Result<Book> {
    let mut entries: BTreeMap<SyncName, Entry> =
        syncs.into_iter().map(|sync| (sync.clone(), Entry::default())).collect();
    let mut schedules =
        connection.prepare_cached("SELECT sync, paused, definition, next_at, used_at FROM schedules")?;
    let mut rows = schedules.query([])?;
    while let Some(row) = rows.next()? {
        let Some(sync) = name(row)? else { continue };
        let (is_paused, definition) = (row.get(1)?, row.get(2)?);
        let (next, used) = (time(row.get(3)?), time(row.get(4)?));
        entries.insert(sync, Entry { is_paused, definition, next, used, ..Entry::default() });
    }
    let mut tickets = connection
        .prepare_cached("SELECT sync, fence, run, cause, full, reset, due_at, failures, vanished FROM tickets")?;
    let mut rows = tickets.query([])?;
    while let Some(row) = rows.next()? {
        let Some(sync) = name(row)? else { continue };
        let (fence, ticket) = (row.get(1)?, ticket(row)?);
        let entry = entries.entry(sync).or_default();
        match fence {
            Some(fence) => entry.started = Some(Started { ticket, fence }),
            None => entry.pending = Some(ticket),
        }
    }
    for (sync, entry) in &mut entries {
        look(connection, sync, entry, seen_by)?;
    }
    Ok(Book(entries))
}

fn look(
    connection: &Connection,
    sync: &SyncName,
    entry: &mut Entry,
    seen_by: Option<(&Holder, Timestamp)>,
) -> rusqlite::Result<()> {
    entry.past = past(connection, sync)?;
    if let Some(started) = &entry.started {
        entry.record = record(connection, &started.ticket.run)?;
    }
    if let Some((holder, now)) = seen_by {
        entry.lease = leases::look(connection, sync, holder, now)?;
    } else if let Some(started) = &entry.started {
        entry.lease = LeaseSeen { fence: started.fence, is_live: true };
    }
    Ok(())
}

/// What the history says of a sync.
fn past(connection: &Connection, sync: &SyncName) -> rusqlite::Result<Past> {
    let newest = |query: &str| {
        let mut query = connection.prepare_cached(query)?;
        let text: Option<String> = query.query_row([sync.as_str()], |row| row.get(0)).optional()?.flatten();
        Ok::<_, rusqlite::Error>(text.and_then(|text| text.parse().ok()))
    };
    Ok(Past {
        began: newest("SELECT started_at FROM runs WHERE sync = ?1 ORDER BY rowid DESC LIMIT 1")?,
        succeeded: newest(
            "SELECT ended_at FROM runs WHERE sync = ?1 AND ended_at IS NOT NULL AND state IN ('succeeded', 'partial')
             ORDER BY rowid DESC LIMIT 1",
        )?,
        finished: newest(
            "SELECT ended_at FROM runs WHERE sync = ?1 AND ended_at IS NOT NULL ORDER BY rowid DESC LIMIT 1",
        )?,
    })
}

/// What the history says of a run.
fn record(connection: &Connection, run: &str) -> rusqlite::Result<Record> {
    let mut query = connection.prepare_cached("SELECT state, reason FROM runs WHERE id = ?1")?;
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let Some((state, reason)) = query.query_row([run], read).optional()? else { return Ok(Record::None) };
    Ok(match state.as_str() {
        "running" => Record::Begun,
        _ if reason.as_deref() == Some(runs::INTERRUPTED) => Record::Begun,
        "failed" => Record::Ended(Ending::Failed),
        _ => Record::Ended(Ending::Settled),
    })
}

/// Writes what was changed of a sync.
fn write(connection: &Connection, sync: &SyncName, was: &Entry, is: &Entry) -> rusqlite::Result<()> {
    let plain = |entry: &Entry| (entry.is_paused, entry.definition.clone(), entry.next, entry.used);
    if plain(was) != plain(is) {
        let insert = "INSERT INTO schedules (sync, paused, definition, next_at, used_at) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (sync) DO UPDATE SET paused = ?2, definition = ?3, next_at = ?4, used_at = ?5";
        let (next, used) = (is.next.map(Timestamp::as_microsecond), is.used.map(Timestamp::as_microsecond));
        connection.execute(insert, params![sync.as_str(), is.is_paused, is.definition, next, used])?;
    }
    if (&was.pending, &was.started) == (&is.pending, &is.started) {
        return Ok(());
    }
    // All of a sync's tickets at once, so that no order of single changes breaks an index on the way.
    connection.execute("DELETE FROM tickets WHERE sync = ?1", [sync.as_str()])?;
    if let Some(ticket) = &is.pending {
        insert(connection, sync, ticket, None)?;
    }
    if let Some(started) = &is.started {
        insert(connection, sync, &started.ticket, Some(started.fence))?;
    }
    match &was.started {
        Some(started) if is.started.as_ref().is_none_or(|other| other.fence != started.fence) => {
            leases::release(connection, sync, started.fence)
        }
        _ => Ok(()),
    }
}

fn insert(connection: &Connection, sync: &SyncName, ticket: &Ticket, fence: Option<i64>) -> rusqlite::Result<()> {
    let Ticket { run, cause, request, due, failures, vanished } = ticket;
    let insert = "INSERT INTO tickets (sync, fence, run, cause, full, reset, due_at, failures, vanished)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        sync.as_str(),
        fence,
        run,
        cause.as_str(),
        request.full,
        request.reset,
        due.as_microsecond(),
        failures,
        vanished
    ];
    connection.execute(insert, values).map(drop)
}

fn ticket(row: &Row<'_>) -> rusqlite::Result<Ticket> {
    let cause: String = row.get("cause")?;
    Ok(Ticket {
        run: row.get("run")?,
        // A word of a newer loader is some reason or other.
        cause: Trigger::ALL.into_iter().find(|known| known.as_str() == cause).unwrap_or(Trigger::Api),
        request: Request { full: row.get("full")?, reset: row.get("reset")? },
        due: time(row.get("due_at")?).unwrap_or(Timestamp::UNIX_EPOCH),
        failures: row.get("failures")?,
        vanished: row.get("vanished")?,
    })
}

/// The sync of a row. What is no name is not ours.
fn name(row: &Row<'_>) -> rusqlite::Result<Option<SyncName>> {
    let text: String = row.get("sync")?;
    Ok(SyncName::new(&text).ok())
}

fn time(micros: Option<i64>) -> Option<Timestamp> {
    micros.and_then(|micros| Timestamp::from_microsecond(micros).ok())
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn sync() -> SyncName {
        SyncName::new("s").unwrap()
    }

    fn ticket(run: &str) -> Ticket {
        let request = Request { full: true, reset: false };
        let due = Timestamp::from_microsecond(1_764_000_000_123_456).unwrap();
        Ticket { run: run.to_owned(), cause: Trigger::After, request, due, failures: 2, vanished: 1 }
    }

    #[test]
    fn a_book_is_read_as_it_was_written_also_by_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let holder = Holder::enter(&state).unwrap();
        let now = Timestamp::now();
        let time = |micros| Some(Timestamp::from_microsecond(micros).unwrap());
        let plain = Entry {
            is_paused: true,
            definition: Some("every 10m".to_owned()),
            next: time(1_764_000_000_000_001),
            used: time(-5),
            pending: Some(ticket("r2")),
            started: Some(Started { ticket: ticket("r1"), fence: 1 }),
            lease: LeaseSeen { fence: 1, is_live: true },
            ..Entry::default()
        };
        let written = plain.clone();
        state.database.with_book([&sync()], &holder, now, |book| book.0.insert(sync(), written)).unwrap();
        let other = State::open(dir.path()).unwrap();
        let reader = Holder::enter(&other).unwrap();
        let read = other.database.with_book([], &reader, now, |book| book.0[&sync()].clone()).unwrap();
        assert_eq!(read, plain);
        assert_eq!(other.database.book([]).unwrap().0[&sync()], plain);

        // The run ends: its lease is given back in the same transaction, and the one that waited may begin.
        let version = other.database.data_version().unwrap();
        state.database.with_book([], &holder, now, |book| book.0.get_mut("s").unwrap().started = None).unwrap();
        assert_ne!(other.database.data_version().unwrap(), version);
        let read = other.database.with_book([], &reader, now, |book| book.0[&sync()].clone()).unwrap();
        assert_eq!(read, Entry { started: None, lease: LeaseSeen { fence: 1, is_live: false }, ..plain });
    }

    #[test]
    fn a_lease_is_taken_with_the_decision_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let holder = Holder::enter(&state).unwrap();
        let now = Timestamp::now();
        let begin = |run: &str, fence| {
            state.database.with_book([&sync()], &holder, now, |book| {
                let entry = book.0.get_mut("s").unwrap();
                entry.started = Some(Started { ticket: ticket(run), fence });
                entry.lease = LeaseSeen { fence, is_live: true };
            })
        };
        begin("r1", 1).unwrap();
        let other = Holder::enter(&state).unwrap();
        let look = || state.database.with_book([], &other, now, |book| book.0[&sync()].lease).unwrap();
        assert_eq!(look(), LeaseSeen { fence: 1, is_live: true });
        // A run with the id of another breaks the transaction, and nothing of it counts.
        let another = SyncName::new("t").unwrap();
        let failed = state.database.with_book([&another], &holder, now, |book| {
            let entry = book.0.get_mut("t").unwrap();
            entry.started = Some(Started { ticket: ticket("r1"), fence: 1 });
            entry.lease = LeaseSeen { fence: 1, is_live: true };
        });
        assert!(failed.is_err());
        let lease = state.database.with_book([&another], &other, now, |book| book.0[&another].lease).unwrap();
        assert_eq!(lease, LeaseSeen::default());
    }

    #[test]
    fn pausing_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(!state.database.set_paused(&sync(), false).unwrap());
        assert!(state.database.set_paused(&sync(), true).unwrap());
        assert!(!state.database.set_paused(&sync(), true).unwrap());
        drop(state);
        let state = State::open(dir.path()).unwrap();
        assert!(state.database.book([]).unwrap().0[&sync()].is_paused);
        assert!(state.database.set_paused(&sync(), false).unwrap());
    }
}
