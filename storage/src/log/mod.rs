//! The node's log: one sequence of segments that all Raft groups share, with group commit.
//!
//! The Raft log is the write-ahead log; nothing is logged twice. [`Log`] is the whole, [`GroupLog`] one group's part of
//! it. A group's entries are indexed in memory and the newest payloads cached; the rest is read from disk when asked
//! for. One thread writes (`writer`), and one sync serves whatever all groups have queued meanwhile.
//!
//! Files: `segment` (headers and checkpoints), `frame` (the checksummed units), `spare` (the next segment, made
//! before it is needed). What is made of them when the log is opened, and the table that tells a torn tail from damage:
//! `recovery`.
//!
//! Invariants:
//! 1. What memory shows and what is queued for the disk are in the same order, for each group.
//! 2. A caller is told `Ok` only when what it handed over, and everything queued before, is on disk.
//! 3. The first error of the disk is the last thing that happens: all waiting and later callers get it, nothing is
//!    written or synced again, and `failed` is called. Entries can still be read.
//! 4. A sector of 512 bytes is assumed to be written whole or not at all; nothing else is.
//!
//! **A full disk** shows when the next segment is prepared, which happens while the current one is at most half full:
//! [`Log::has_room`] turns false, and whoever proposes entries must refuse. What is under way, votes and the like still
//! have the other half. When space returns, so does `has_room`, within a second. If the half is used up all the same
//! the log fails like after any other error, with `StorageFull`; it can be opened again on the full disk, since opening
//! needs no space.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam_channel::Sender;
use larder_types::ids::{GroupId, ReplicaId};

use crate::disk::Disk;

mod failure;
mod frame;
mod group;
mod meter;
mod recovery;
mod segment;
mod segments;
mod spare;
mod steps;
#[cfg(test)]
mod tests;
mod writer;

use failure::{Failure, Waiter, closed};
use group::{Found, Group, GroupCell};
pub use meter::LogUsage;
use meter::Meter;
use segment::Header;
use segments::{SegmentInfo, Segments};
use spare::Spare;
pub use steps::{LogSteps, LogWriter};
use writer::{Cache, Message, Pending, Record, Writer};

/// Smallest segment that [`Log::open`] accepts: a header, a few groups and some entries.
pub const MIN_SEGMENT_BYTES: u64 = 16 << 10;

/// Largest segment that [`Log::open`] accepts: it is read into memory as a whole when the log is opened.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Messages that wait for the writer before callers wait too. A round takes far fewer.
const QUEUE_MESSAGES: usize = 1024;

/// The place of an entry in its group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term in which it was proposed.
    pub term: u64,
    /// The leader that proposed it.
    pub leader: ReplicaId,
    /// Its position, from 0.
    pub index: u64,
}

/// A replica's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The candidate voted for.
    pub candidate: ReplicaId,
    /// Whether that candidate is known to have won.
    pub committed: bool,
}

/// What an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A command of the state machine.
    Command,
    /// A membership, in the encoding of `replication`.
    Membership,
}

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub id: LogId,
    /// What the payload is.
    pub kind: EntryKind,
    /// The payload.
    pub payload: Bytes,
}

/// What a group's log amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The vote, if any was saved.
    pub vote: Option<Vote>,
    /// The last entry known to be committed when last saved (saved lazily).
    pub committed: Option<LogId>,
    /// Everything up to here was purged.
    pub purged: Option<LogId>,
    /// The last entry, or what was purged last if none is left.
    pub last: Option<LogId>,
}

/// How a log behaves.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of a segment file, from [`MIN_SEGMENT_BYTES`] to [`MAX_SEGMENT_BYTES`]. An entry's payload may take a
    /// quarter of it, and so may the checkpoint of all groups (96 bytes each).
    pub segment_bytes: u64,
    /// Bytes of entry payloads kept in memory over all groups; older ones are read from disk. Entries that are still
    /// being written come on top: whoever appends must bound them. So does the place of each entry, about 100 bytes, until
    /// it is purged.
    pub cache_bytes: u64,
    /// Who writes.
    pub writer: LogWriter,
}

impl Default for LogOptions {
    /// 64 MiB a segment, 128 MiB of cache, a thread that writes.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 128 << 20, writer: LogWriter::Thread }
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("the log cannot be read or written")]
    Io(#[from] io::Error),
    /// Bytes in the middle of the log are damaged. Which file and offset, and what to do, in a sentence.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// Called once when what was handed over is on disk, or can never be. Runs on the writer's thread (on the caller's if
/// the log has already failed), so it must be quick and must not call the log.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called once, from the writer's thread, when the log has failed.
type OnFailure = Box<dyn Fn(&io::Error) + Send + Sync>;

/// The node's log. Cheap to clone. The last clone of it and of its groups to go closes it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

/// One group's part of the log. Cheap to clone.
#[derive(Clone)]
pub struct GroupLog {
    inner: Arc<Inner>,
    cell: Arc<GroupCell>,
}

struct Inner {
    shared: Arc<Shared>,
    groups: Mutex<BTreeMap<GroupId, Arc<GroupCell>>>,
    sender: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    steps: Option<LogSteps>,
    segment_bytes: u64,
}

/// What the writer's thread and the callers share.
struct Shared {
    failure: Failure,
    on_failure: OnFailure,
    /// False while the next segment cannot be prepared because the disk is full. A hint, ordered with nothing.
    room: AtomicBool,
    segments: Mutex<Segments>,
    meter: Arc<Meter>,
}

impl Log {
    /// Opens the log in a directory of the disk, recovering what it holds; a torn tail is cut, damage is an error.
    /// `failed` is called once, from the writer's thread, when the disk has failed: the node must stop.
    ///
    /// # Errors
    /// When the disk fails or the log is damaged, or another process has it open.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        failed: Box<dyn Fn(&io::Error) + Send + Sync>,
    ) -> Result<Self, LogError> {
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&options.segment_bytes) {
            let text = format!("a segment must have {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
        }
        disk.create_dir(dir)?;
        let dir_lock = disk.lock(dir)?;
        let mut recovered = recovery::recover(&*disk, dir)?;
        if recovered.groups.len() as u64 > most_groups(options.segment_bytes) {
            let text = format!("segments of {} bytes are too short for this log's groups", options.segment_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
        }
        let mut spare = Spare::open(Arc::clone(&disk), dir, options.segment_bytes)?;
        let active = match recovered.active {
            Some(active) => active,
            None => {
                let header = first_header(options.segment_bytes);
                recovered.segments.0.push_back(SegmentInfo::new(header.sequence, header.bytes));
                writer::start_segment(dir, &mut spare, &header)?
            }
        };
        let shared = Arc::new(Shared {
            failure: Failure::default(),
            on_failure: failed,
            room: AtomicBool::new(true),
            segments: Mutex::new(recovered.segments),
            meter: Arc::default(),
        });
        let (sender, receiver) = match options.writer {
            LogWriter::Thread => crossbeam_channel::bounded(QUEUE_MESSAGES),
            LogWriter::Steps(_) => crossbeam_channel::unbounded(),
        };
        let mut writer = Writer {
            disk,
            dir: dir.to_path_buf(),
            cache_bytes: options.cache_bytes,
            shared: Arc::clone(&shared),
            receiver,
            active,
            spare,
            states: recovered.groups.iter().map(|(&id, group)| (id, group.state())).collect(),
            pending: Pending::default(),
            cache: Cache::default(),
            _lock: dir_lock,
        };
        writer.collect()?;
        writer.pace()?;
        let (thread, steps) = match options.writer {
            LogWriter::Thread => (Some(spawn(writer)?), None),
            LogWriter::Steps(steps) => {
                steps.open(writer);
                (None, Some(steps))
            }
        };
        let cells = recovered.groups.into_iter().map(|(id, group)| (id, GroupCell::new(id, group))).collect();
        let inner = Inner {
            shared,
            groups: Mutex::new(cells),
            sender,
            thread: Mutex::new(thread),
            steps,
            segment_bytes: options.segment_bytes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A group's part of the log; empty if the log knows nothing of the group.
    ///
    /// # Panics
    /// If the checkpoint of so many groups would take more than a quarter of a segment.
    #[must_use]
    pub fn group(&self, group: GroupId) -> GroupLog {
        let mut groups = lock(&self.inner.groups);
        let known = groups.len() as u64;
        let cell = groups.entry(group).or_insert_with(|| {
            let most = most_groups(self.inner.segment_bytes);
            assert!(known < most, "segments of this size have room for {most} groups only");
            GroupCell::new(group, Group::default())
        });
        GroupLog { inner: Arc::clone(&self.inner), cell: Arc::clone(cell) }
    }

    /// Whether there is room for more entries. While there is none (the disk is full) proposals must be refused.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.inner.shared.room.load(Ordering::Relaxed)
    }

    /// The groups whose entries keep the oldest segments from being recycled, oldest need first, if the log is larger
    /// than `budget_bytes`: they should take a snapshot and purge.
    #[must_use]
    pub fn pinning(&self, budget_bytes: u64) -> Vec<GroupId> {
        let beyond = lock(&self.inner.shared.segments).beyond(budget_bytes);
        let groups = lock(&self.inner.groups);
        let mut pinning = Vec::new();
        for (group, newest) in beyond.into_iter().flatten() {
            let pins = groups.get(&group).is_some_and(|cell| cell.state().first() <= newest);
            if pins && !pinning.contains(&group) {
                pinning.push(group);
            }
        }
        pinning
    }

    /// Bytes of all segments. The file that is prepared to be the next one is not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.inner.shared.segments).bytes()
    }

    /// What the log takes, and how it does. Looks at every group for a moment.
    #[must_use]
    pub fn usage(&self) -> LogUsage {
        let Shared { failure, room, segments, meter, .. } = &*self.inner.shared;
        let (segments, segment_bytes) = {
            let segments = lock(segments);
            (segments.0.len() as u64, segments.bytes())
        };
        let cells: Vec<_> = lock(&self.inner.groups).values().map(Arc::clone).collect();
        let (entries, index_bytes) = cells.iter().map(|cell| cell.state().index_size()).fold((0, 0), add);
        LogUsage {
            segments,
            segment_bytes,
            failed: failure.check().is_err(),
            has_room: room.load(Ordering::Relaxed),
            entries,
            index_bytes,
            cached_bytes: meter.cached_bytes.load(Ordering::Relaxed),
            queued_bytes: meter.queued_bytes(),
            buffer_bytes: meter.buffer_bytes.load(Ordering::Relaxed),
            sync_micros: meter.sync_micros(),
            callers: meter.callers(),
            written_bytes: meter.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Writes what is pending, syncs it and ends the writer's thread. Later calls fail.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl GroupLog {
    /// What the group's log amounts to now.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.cell.state().state()
    }

    /// The log id of the entry at this index, if there is one.
    #[must_use]
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.cell.state().id_at(index)
    }

    /// Appends entries, which must follow the last one without a gap. They can be read at once; `done` is called when
    /// they are on disk. Waits while too much is queued for the disk.
    ///
    /// # Panics
    /// If an entry does not follow the one before it, or its payload takes more than a quarter of a segment.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        let waiter = Waiter::new(done);
        if let Err(error) = self.inner.shared.failure.check() {
            return waiter.tell(Err(error));
        }
        if entries.is_empty() {
            return waiter.tell(Ok(()));
        }
        let _order = self.cell.order();
        let number = {
            let mut state = self.cell.state();
            for (entry, expected) in entries.iter().zip(state.next()..) {
                let (group, index, bytes) = (self.cell.id, entry.id.index, entry.payload.len() as u64);
                assert!(index == expected, "group {group} appends entry {index} where {expected} must follow");
                assert!(bytes <= self.inner.segment_bytes / 4, "group {group} appends an entry of {bytes} bytes");
            }
            state.append(&entries)
        };
        self.send(Record::Entries { entries, number }, Some(waiter));
    }

    /// Saves the vote; `done` is called when it is on disk.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        let waiter = Waiter::new(done);
        if let Err(error) = self.inner.shared.failure.check() {
            return waiter.tell(Err(error));
        }
        let _order = self.cell.order();
        self.cell.state().set_vote(vote);
        self.send(Record::Vote(vote), Some(waiter));
    }

    /// Removes the entries after this index (all if `None`). On disk before anything appended later.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn truncate_after(&self, index: Option<u64>) -> io::Result<()> {
        self.inner.shared.failure.check()?;
        let _order = self.cell.order();
        let last = {
            let mut state = self.cell.state();
            if !state.truncate_from(index.map_or(0, |index| index + 1)) {
                return Ok(());
            }
            state.state().last
        };
        self.send(Record::Truncate { after: index, last }, None);
        Ok(())
    }

    /// Removes the entries up to and including this one. A position beyond the last entry empties the log and lets it
    /// go on from there (after installing a snapshot). The snapshot that replaces them must be on disk already.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn purge(&self, upto: LogId) -> io::Result<()> {
        self.inner.shared.failure.check()?;
        let _order = self.cell.order();
        let last = {
            let mut state = self.cell.state();
            if !state.purge(upto) {
                return Ok(());
            }
            state.state().last
        };
        self.send(Record::Purge { upto, last }, None);
        Ok(())
    }

    /// Notes how far the log is committed. Written with whatever is written next.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.inner.shared.failure.check()?;
        let _order = self.cell.order();
        if self.cell.state().set_committed(committed) {
            self.send(Record::Committed(committed), None);
        }
        Ok(())
    }

    /// Forgets everything of the group: entries, vote, and positions; `done` is called when that is on disk. For a replica
    /// that is given up: another one of the group begins like new.
    pub fn forget(&self, done: Done) {
        let waiter = Waiter::new(done);
        if let Err(error) = self.inner.shared.failure.check() {
            return waiter.tell(Err(error));
        }
        let _order = self.cell.order();
        self.cell.state().forget();
        self.send(Record::Forget, Some(waiter));
    }

    /// The entries in this range of indexes that exist, at least one if any does, else as many as fit `max_bytes`.
    ///
    /// # Errors
    /// When the disk fails or what it returns is damaged: an error, never a shorter answer.
    pub fn read(&self, range: Range<u64>, max_bytes: u64) -> io::Result<Vec<LogEntry>> {
        loop {
            let found = self.cell.state().find(range.clone(), max_bytes);
            let none = found.is_empty();
            let mut entries = Vec::with_capacity(found.len());
            for found in found {
                entries.extend(self.fetch(found)?);
            }
            // Unless all that was found has been purged meanwhile.
            if none || !entries.is_empty() {
                return Ok(entries);
            }
        }
    }

    /// The group's entries that were not purged.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.cell.state().index_size().0
    }

    /// Bytes of the group's entries that were not purged.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cell.state().bytes()
    }

    /// An entry from wherever it is; `None` if it has been purged since it was found, and its segment recycled.
    fn fetch(&self, found: Found) -> io::Result<Option<LogEntry>> {
        let (id, kind, payload_bytes, place) = match found {
            Found::Cached(entry) => return Ok(Some(entry)),
            Found::OnDisk { id, kind, payload_bytes, place } => (id, kind, payload_bytes, place),
        };
        match place.segment.read_entry(place.offset, payload_bytes) {
            Ok(entry) if (entry.id, entry.kind) == (id, kind) => Ok(Some(entry)),
            _ if id.index < self.cell.state().first() => Ok(None),
            Ok(_) => Err(misplaced(id, place.segment.sequence)),
            Err(error) => Err(error),
        }
    }

    /// Queues a record; the group's order is held.
    fn send(&self, record: Record, waiter: Option<Waiter>) {
        let cell = Arc::clone(&self.cell);
        let queued = self.inner.shared.meter.queue(record.frame_bytes());
        // If the writer has ended, dropping the message tells its waiter.
        let _ = self.inner.sender.send(Message::Write { cell, record, waiter, queued });
        if let Some(steps) = &self.inner.steps {
            steps.tell();
        }
    }
}

impl Inner {
    fn close(&self) {
        if let Some(steps) = &self.steps {
            let _ = self.sender.send(Message::Close);
            return steps.tell();
        }
        let Some(writer) = lock(&self.thread).take() else { return };
        // If the last handle goes in a callback we are the writer, and end by ourselves: there are no senders left.
        if writer.thread().id() == thread::current().id() {
            return;
        }
        // This fails if the writer has ended. If it has panicked, that was reported as the log's failure.
        let _ = self.sender.send(Message::Close);
        let _ = writer.join();
        self.shared.end();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Notes that the log was closed in order.
    fn end(&self) {
        self.failure.set(&closed());
    }

    /// Makes this the log's failure, unless it has one already.
    fn fail(&self, error: &io::Error) {
        if self.failure.set(error) {
            tracing::error!(error = error as &dyn std::error::Error, "the log has failed");
            (self.on_failure)(error);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} bytes)", self.bytes())
    }
}

impl fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupLog({}, {:?})", self.cell.id, self.state())
    }
}

fn add(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}

/// How many groups a log with segments of this length can have.
const fn most_groups(segment_bytes: u64) -> u64 {
    segment_bytes / 4 / segment::CHECKPOINT_BYTES as u64
}

/// The header of a new log. Its salt is chance, so that files of another log do not fit.
fn first_header(segment_bytes: u64) -> Header {
    use std::hash::{BuildHasher, RandomState};
    let [a, b, c, d, ..] = RandomState::new().hash_one(segment_bytes).to_le_bytes();
    let salt = u32::from_le_bytes([a, b, c, d]);
    Header { sequence: 1, salt, bytes: segment_bytes, previous_end: 0, checkpoint: BTreeMap::new() }
}

fn spawn(writer: Writer) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(&writer.shared);
    thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
        // A callback has panicked, or an assertion has failed: then nobody knows what was written.
        if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
            shared.fail(&io::Error::other("the log's writer has panicked"));
        }
    })
}

fn misplaced(id: LogId, sequence: u64) -> io::Error {
    let text = format!("log segment {sequence} holds another entry where entry {} should be", id.index);
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A lock whose holder has panicked is as good as any other: asserts come before changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
