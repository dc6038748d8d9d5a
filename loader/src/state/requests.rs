//! The table of requests: every attempt of every run to send a batch, so that what happened to a key can be told later.
//!
//! Written in the background, by a thread and connection of its own: a run waits for none of it, and none of it can fail
//! a run. What the thread cannot keep up with is left out and counted; what has been noted when a run ends is waited
//! for, for a bounded time. Keys are kept as 64-bit hashes, salted for each state folder; they are with the first attempt
//! of a batch and not with its repeats.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_types::names::SyncName;
use larder_types::time::write_timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::StateError;
use super::database::{Database, signed};
use crate::project::DestinationName;
use crate::push::log::{Attempt, RequestLog};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    seq INTEGER NOT NULL,
    -- From 1.
    attempt INTEGER NOT NULL,
    -- Microseconds since 1970.
    at INTEGER NOT NULL,
    latency_us INTEGER NOT NULL,
    op TEXT NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- The HTTP status; null if there was no answer.
    status INTEGER,
    code TEXT,
    error TEXT,
    rejected INTEGER NOT NULL,
    -- Salted hashes of the batch's keys, 8 bytes each; null for repeats.
    keys BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS requests_of_run ON requests (run);
CREATE TABLE IF NOT EXISTS key_salt (salt INTEGER NOT NULL) STRICT;
INSERT INTO key_salt (salt) SELECT random() WHERE NOT EXISTS (SELECT 1 FROM key_salt);
";

/// Attempts that may wait for the writer: with their keys a few MiB at most.
const WAITING: usize = 64;
/// Attempts are written together: as many as come within …
const GATHER: Duration = Duration::from_millis(100);
/// How long a write may wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(2);
/// Bytes that an attempt takes beside its keys, near enough.
const ATTEMPT_BYTES: i64 = 200;

/// Hashes keys, alike for everything in one state folder and like nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeySalt(u64);

impl KeySalt {
    pub(crate) fn hash(self, key: &str) -> u64 {
        xxh3_64_with_seed(key.as_bytes(), self.0)
    }

    /// A key that may not be shown: `#` and its hash.
    pub(crate) fn pseudonym(self, key: &str) -> String {
        format!("#{:016x}", self.hash(key))
    }

    /// Whether a key that was kept may stand for another.
    pub(crate) fn may_be_pseudonym(key: &str) -> bool {
        key.starts_with('#')
    }
}

struct Entry {
    destination: String,
    seq: u32,
    attempt: u32,
    at: i64,
    latency_us: i64,
    op: &'static str,
    rows: i64,
    bytes: i64,
    status: Option<u16>,
    code: Option<String>,
    error: Option<String>,
    rejected: i64,
    keys: Option<Vec<u8>>,
}

/// Takes the attempts of one run in.
pub(crate) struct RequestBook {
    into: Option<SyncSender<Entry>>,
    writer: Option<JoinHandle<()>>,
    salt: KeySalt,
    lost: AtomicU64,
}

/// The log of one delivery.
pub(crate) struct DeliveryLog<'a> {
    pub(crate) book: &'a RequestBook,
    pub(crate) destination: &'a DestinationName,
}

impl RequestBook {
    /// Begins the log of a run. If that cannot be, nothing is logged and a warning says so.
    pub(crate) fn begin(database: &Database, run: &str, salt: KeySalt) -> Self {
        let (into, entries) = sync_channel(WAITING);
        let (path, run) = (database.path().to_path_buf(), run.to_owned());
        let thread = std::thread::Builder::new().name("request-log".to_owned());
        let writer = thread.spawn(move || keep(&path, &run, &entries));
        let writer = writer.map_err(|error| tracing::warn!(%error, "requests are not logged")).ok();
        Self { into: writer.is_some().then_some(into), writer, salt, lost: AtomicU64::new(0) }
    }

    /// The log of one delivery of the run.
    pub(crate) fn of<'a>(&'a self, destination: &'a DestinationName) -> DeliveryLog<'a> {
        DeliveryLog { book: self, destination }
    }
}

impl Drop for RequestBook {
    fn drop(&mut self) {
        self.into = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::warn!("the thread that logs requests panicked");
        }
        let lost = *self.lost.get_mut();
        if lost > 0 {
            tracing::warn!(lost, "requests came faster than they could be logged");
        }
    }
}

impl RequestLog for DeliveryLog<'_> {
    fn note(&self, attempt: &Attempt<'_>) {
        let Some(into) = &self.book.into else { return };
        let Attempt { batch, number, at, latency, status, code, error, rejected, .. } = *attempt;
        let hashes = || batch.patches.iter().flat_map(|patch| self.book.salt.hash(&patch.key).to_le_bytes()).collect();
        let entry = Entry {
            destination: self.destination.to_string(),
            seq: batch.seq,
            attempt: number,
            at: at.as_microsecond(),
            latency_us: i64::try_from(latency.as_micros()).unwrap_or(i64::MAX),
            op: batch.op.as_str(),
            rows: signed(batch.patches.len() as u64),
            bytes: signed(batch.body.len() as u64),
            status,
            code: code.map(str::to_owned),
            error: error.map(str::to_owned),
            rejected: signed(rejected),
            keys: (number == 1).then(hashes),
        };
        if into.try_send(entry).is_err() {
            self.book.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes entries until there will be no more.
fn keep(path: &Path, run: &str, entries: &Receiver<Entry>) {
    let result = open(path).and_then(|mut connection| {
        while let Ok(first) = entries.recv() {
            let gathered = gather(first, entries);
            let transaction = Transaction::new(&mut connection, TransactionBehavior::Immediate)?;
            gathered.iter().try_for_each(|entry| insert(&transaction, run, entry))?;
            transaction.commit()?;
        }
        Ok(())
    });
    if let Err(error) = result {
        tracing::warn!(%error, "requests are logged no more in this run");
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Nothing depends on it: a power cut may take the last second of the log.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

fn gather(first: Entry, entries: &Receiver<Entry>) -> Vec<Entry> {
    let until = Instant::now() + GATHER;
    let mut gathered = vec![first];
    while gathered.len() < WAITING
        && let Ok(entry) = entries.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        gathered.push(entry);
    }
    gathered
}

fn insert(connection: &Connection, run: &str, entry: &Entry) -> rusqlite::Result<()> {
    let insert = "INSERT INTO requests (run, destination, seq, attempt, at, latency_us, op, rows, bytes, status, code,
        error, rejected, keys) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
    let Entry { destination, seq, attempt, at, latency_us, op, rows, bytes, status, code, error, rejected, keys } =
        entry;
    let values =
        params![run, destination, seq, attempt, at, latency_us, op, rows, bytes, status, code, error, rejected, keys];
    connection.prepare_cached(insert)?.execute(values).map(drop)
}

/// One attempt, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestEntry {
    /// The run's id.
    pub run: String,
    /// The destination.
    pub destination: String,
    /// The number of the batch.
    pub seq: u32,
    /// From 1.
    pub attempt: u32,
    /// When it was sent, RFC 3339.
    pub at: String,
    /// Microseconds until its end.
    pub latency_us: u64,
    /// `upsert`, `clear` or `delete`.
    pub op: String,
    /// Rows of the batch.
    pub rows: u64,
    /// Bytes of its body.
    pub bytes: u64,
    /// The HTTP status; none if there was no answer.
    pub status: Option<u16>,
    /// The cluster's word for what went wrong.
    pub code: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// Rows that were rejected.
    pub rejected: u64,
}

const COLUMNS: &str =
    "run, destination, seq, attempt, at, latency_us, op, rows, bytes, status, code, error, requests.rejected";

impl Database {
    pub(crate) fn key_salt(&self) -> Result<KeySalt, StateError> {
        let query = "SELECT salt FROM key_salt";
        self.with(|connection| connection.query_row(query, [], |row| row.get(0).map(i64::cast_unsigned).map(KeySalt)))
    }

    /// The attempts of a run, in the order in which they ended, as far as they are remembered; `None` if there is no such
    /// run.
    pub(crate) fn requests(&self, run: &str) -> Result<Option<Vec<RequestEntry>>, StateError> {
        self.with(|connection| {
            let known = connection.query_row("SELECT 1 FROM runs WHERE id = ?1", [run], |_| Ok(())).optional()?;
            if known.is_none() {
                return Ok(None);
            }
            let query = format!("SELECT {COLUMNS} FROM requests WHERE run = ?1 ORDER BY requests.id");
            let mut statement = connection.prepare(&query)?;
            let entries = statement.query_map([run], entry)?;
            entries.collect::<rusqlite::Result<_>>().map(Some)
        })
    }

    /// The last attempt at the newest batch in which a key was sent to a destination, as far as it is remembered.
    pub(crate) fn last_push(
        &self,
        sync: &SyncName,
        destination: &DestinationName,
        key: u64,
    ) -> Result<Option<RequestEntry>, StateError> {
        let candidates = "SELECT run, seq, keys FROM requests JOIN runs ON runs.id = run
            WHERE sync = ?1 AND destination = ?2 AND keys IS NOT NULL ORDER BY requests.id DESC";
        let last = format!(
            "SELECT {COLUMNS} FROM requests WHERE run = ?1 AND destination = ?2 AND seq = ?3 ORDER BY requests.id DESC LIMIT 1"
        );
        let wanted = key.to_le_bytes();
        self.with(|connection| {
            let mut statement = connection.prepare(candidates)?;
            let mut rows = statement.query([sync.as_str(), destination.as_str()])?;
            while let Some(row) = rows.next()? {
                let keys = row.get_ref(2)?.as_blob().unwrap_or_default();
                if keys.as_chunks::<8>().0.contains(&wanted) {
                    let (run, seq): (String, u32) = (row.get(0)?, row.get(1)?);
                    return connection.query_row(&last, params![run, destination.as_str(), seq], entry).optional();
                }
            }
            Ok(None)
        })
    }

    /// Forgets attempts before `oldest` (microseconds since 1970), and the oldest of those that are more than `bytes`.
    pub(crate) fn forget_requests(&self, oldest: i64, bytes: u64) -> Result<(), StateError> {
        let too_old = "DELETE FROM requests WHERE at < ?1";
        // The newest attempt that makes the log too large goes with all that are older.
        let too_many = "DELETE FROM requests WHERE id <= (SELECT id FROM
            (SELECT id, sum(?2 + coalesce(length(keys), 0)) OVER (ORDER BY id DESC) AS kept FROM requests)
            WHERE kept > ?1 ORDER BY id DESC LIMIT 1)";
        self.transact(|transaction| {
            transaction.execute(too_old, [oldest])?;
            transaction.execute(too_many, [signed(bytes), ATTEMPT_BYTES]).map(drop)
        })
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<RequestEntry> {
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let mut at = String::new();
    write_timestamp(row.get(4)?, &mut at);
    Ok(RequestEntry {
        run: row.get(0)?,
        destination: row.get(1)?,
        seq: row.get(2)?,
        attempt: row.get(3)?,
        at,
        latency_us: count(5)?,
        op: row.get(6)?,
        rows: count(7)?,
        bytes: count(8)?,
        status: row.get(9)?,
        code: row.get(10)?,
        error: row.get(11)?,
        rejected: count(12)?,
    })
}
